//! How far all runs of a call have come: one bar over all of them on a terminal, elsewhere a plain line a run.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use router_core::clock::Clock;

use crate::tell;

/// The bar's steps for each run.
const STEPS: u64 = 1000;

/// The runs of a call, one after the other. The bar goes when this is dropped.
#[derive(Debug)]
pub struct Course {
    bar: ProgressBar,
    /// How many there are.
    runs: u32,
    /// Whether they may be fewer.
    at_most: bool,
    begun: u32,
    /// What the runs that follow have in common: a point of a sweep.
    point: String,
    clock: Clock,
    began: Instant,
    /// How long the run takes that has begun, unless it ends early.
    length: Duration,
}

impl Course {
    /// So many runs are to come.
    pub fn new(runs: u32) -> Self {
        let length = u64::from(runs) * STEPS;
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
        // The template is a constant; without it the bar has the default look.
        if let Ok(style) =
            ProgressStyle::with_template("{prefix} [{wide_bar}] {percent:>3} %, {eta} left, {msg}")
        {
            bar.set_style(style);
        }
        let clock = Clock::system();
        let began = clock.now();
        let (point, length) = (String::new(), Duration::ZERO);
        Self { bar, runs, at_most: false, begun: 0, point, clock, began, length }
    }

    /// So many runs are to come, or fewer.
    pub fn at_most(runs: u32) -> Self {
        let mut course = Self::new(runs);
        course.at_most = true;
        course
    }

    /// What the runs that follow have in common.
    pub fn enter(&mut self, point: &str) {
        self.point = format!("{point}: ");
    }

    /// The first so many runs are over, if there were as many or not.
    pub fn skip_to(&mut self, runs: u32) {
        self.begun = runs.max(self.begun);
        self.bar.set_position(u64::from(self.begun) * STEPS);
    }

    /// Another run begins. `bounds` says in words when it ends at the latest.
    pub fn begin(&mut self, title: &str, length: Duration, bounds: &str) {
        self.begun += 1;
        (self.began, self.length) = (self.clock.now(), length);
        let title = format!("{}{title}{}", self.point, self.place());
        if self.bar.is_hidden() {
            tell!("{title}: {bounds}");
        }
        self.progress(0.0, "starting");
        self.bar.set_prefix(title);
    }

    /// Which run of how many it is; nothing where there is one only.
    fn place(&self) -> String {
        match (self.runs, self.at_most) {
            (0 | 1, _) => String::new(),
            (runs, false) => format!(" (run {} of {runs})", self.begun),
            (runs, true) => format!(" (run {} of at most {runs})", self.begun),
        }
    }

    /// The run has come so far by time, or by `share` if that is farther.
    pub fn progress(&self, share: f64, message: &str) {
        let elapsed = self.clock.now().duration_since(self.began).as_secs_f64();
        let share = share.max(elapsed / self.length.as_secs_f64().max(1e-9)).clamp(0.0, 1.0);
        let before = u64::from(self.begun.saturating_sub(1)) * STEPS;
        self.bar.set_position(before + (share * STEPS as f64) as u64);
        self.bar.set_message(message.to_owned());
    }

    /// Says something above the bar.
    pub fn say(&self, line: &str) {
        if self.bar.is_hidden() {
            tell!("{line}");
        } else {
            self.bar.println(line);
        }
    }
}

impl Drop for Course {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn the_bar_is_of_all_runs() {
        let mut course = Course::new(4);
        course.begin("routerd 1/2", HOUR, "");
        course.progress(0.5, "measuring");
        assert_eq!((course.bar.position(), course.bar.length()), (500, Some(4_000)));
        // One that ended early counts as a whole.
        course.begin("haproxy 1/2", HOUR, "");
        assert_eq!(
            (course.bar.position(), course.bar.prefix().as_str()),
            (1_000, "haproxy 1/2 (run 2 of 4)")
        );
        course.progress(7.0, "measuring");
        assert_eq!(course.bar.position(), 2_000);
        course.begin("routerd 2/2", Duration::ZERO, "");
        assert_eq!(course.bar.position(), 3_000);
    }

    #[test]
    fn a_search_does_not_know_how_many_runs_it_takes() {
        let mut course = Course::at_most(32);
        course.enter("100/s");
        course.begin("routerd 1/1", HOUR, "");
        assert_eq!(course.bar.prefix(), "100/s: routerd 1/1 (run 1 of at most 32)");
        course.skip_to(16);
        assert_eq!(course.bar.position(), 16_000);
        course.begin("haproxy 1/1", HOUR, "");
        assert_eq!(course.bar.prefix(), "100/s: haproxy 1/1 (run 17 of at most 32)");
    }

    #[test]
    fn one_run_has_no_number() {
        let mut course = Course::new(1);
        course.begin("routerd 1/1", HOUR, "");
        assert_eq!(course.bar.prefix(), "routerd 1/1");
    }
}
