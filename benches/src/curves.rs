//! What the plots of a run are drawn from: quantiles, a timeline, and which dyno was busy when; all of it bounded.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::records::{NEVER, Record};

/// So many quantiles for each factor of ten in rarity.
const STEPS: u32 = 16;
/// One request in 10^this is the rarest that is shown.
const DECADES: u32 = 6;
/// The timeline has at most so many intervals.
const INTERVALS: u64 = 120;
/// No interval of the timeline and no column of the grid is shorter, in nanoseconds.
const SHORTEST: u64 = 5_000_000;
/// The grid has at most so many rows.
const ROWS: usize = 200;
/// The grid has at most so many columns.
const COLUMNS: u64 = 400;

/// The data of a run's plots.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Curves {
    /// Latency: quantile (0 to 1) and milliseconds, denser towards the tail.
    pub latency: Vec<(f64, f64)>,
    /// Wait, in the same form.
    pub wait: Vec<(f64, f64)>,
    /// Wait in the ideal line, in the same form.
    pub ideal_wait: Vec<(f64, f64)>,
    /// The run proper in equal intervals, at most 120.
    pub timeline: Vec<Interval>,
    /// Which dyno was busy when; left out where many runs stand in one file.
    pub occupancy: Option<Occupancy>,
}

/// One interval of the timeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// When it begins, in seconds from the beginning of the run proper.
    pub at_seconds: f64,
    /// Its length, in seconds.
    pub seconds: f64,
    /// Requests that were due in it.
    pub sent: u64,
    /// Answers that were complete in it.
    pub answered: u64,
    /// Requests that were due in it and had no answer, or had one without any dyno having worked on them.
    pub faults: u64,
    /// Median latency of the requests that were due in it, in milliseconds; none if none was answered.
    pub p50_ms: Option<f64>,
    /// 99th percentile of their latency, in milliseconds.
    pub p99_ms: Option<f64>,
    /// How many dynos were busy, on average.
    pub busy_dynos: f64,
}

/// How busy the dynos were over the time: a grid of digits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Occupancy {
    /// How many dynos there were; a row may stand for several neighbours.
    pub dynos: u32,
    /// What a column stands for, in seconds.
    pub column_seconds: f64,
    /// One text a row, one digit a column: 0 for never busy to 9 for always busy.
    pub rows: Vec<String>,
}

impl Curves {
    /// The curves of the records of a run; `window` is the run proper, on the clock of the records.
    pub fn of<'a>(
        records: impl Iterator<Item = &'a Record>,
        window: (u64, u64),
        dynos: usize,
        [latency, wait, ideal]: [&Histogram<u64>; 3],
    ) -> Self {
        let mut timeline = Timeline::new(window);
        let mut grid = Grid::new(window, dynos);
        for record in records {
            timeline.add(record);
            grid.add(record);
        }
        Self {
            latency: quantiles(latency),
            wait: quantiles(wait),
            ideal_wait: quantiles(ideal),
            timeline: timeline.intervals(),
            occupancy: Some(grid.occupancy()),
        }
    }

    /// Without what is large and of interest for a single run only.
    pub fn slim(&mut self) {
        self.timeline.clear();
        self.occupancy = None;
    }
}

/// Quantiles of a histogram of nanoseconds, up to the rarest that the count has a right to.
fn quantiles(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    let rarity = |step: u32| 10f64.powf(f64::from(step) / f64::from(STEPS));
    let point = |one_in: f64| {
        let quantile = ((1.0 - 1.0 / one_in) * 1e7).round() / 1e7;
        (quantile, histogram.value_at_quantile(quantile) as f64 / 1e6)
    };
    // Powers of ten are not exact.
    let most = histogram.len() as f64 * (1.0 + 1e-9);
    let shown = |one_in: &f64| *one_in <= most;
    (0..=STEPS * DECADES).map(rarity).take_while(shown).map(point).collect()
}

/// Splits a window into equal parts, at most `most` and none shorter than the shortest.
fn parts((from, to): (u64, u64), most: u64) -> (u64, usize) {
    let length = to.saturating_sub(from).max(1);
    let part = length.div_ceil(most).max(SHORTEST);
    (part, usize::try_from(length.div_ceil(part)).unwrap_or(1))
}

/// Calls `add` with each part that `[began, ended)` touches and the nanoseconds of it.
fn spread(window: (u64, u64), part: u64, (began, ended): (u64, u64), mut add: impl FnMut(usize, u64)) {
    let (mut at, end) = (began.max(window.0), ended.min(window.1));
    while at < end {
        let place = (at - window.0) / part;
        let next = (window.0 + (place + 1) * part).min(end);
        add(usize::try_from(place).unwrap_or(usize::MAX), next - at);
        at = next;
    }
}

struct Timeline {
    window: (u64, u64),
    part: u64,
    intervals: Vec<Interval>,
    latencies: Vec<Vec<u64>>,
    busy: Vec<u64>,
}

impl Timeline {
    fn new(window: (u64, u64)) -> Self {
        let (part, count) = parts(window, INTERVALS);
        Self {
            window,
            part,
            intervals: vec![Interval::default(); count],
            latencies: vec![Vec::new(); count],
            busy: vec![0; count],
        }
    }

    /// The interval of an instant of the run proper.
    fn place(&self, at: u64) -> Option<usize> {
        let inside = (self.window.0..self.window.1).contains(&at);
        inside.then(|| usize::try_from((at - self.window.0) / self.part).unwrap_or(usize::MAX))
    }

    fn add(&mut self, record: &Record) {
        if let Some(place) = self.place(record.due) {
            let interval = &mut self.intervals[place];
            interval.sent += 1;
            interval.faults += u64::from(record.done == NEVER || !record.served());
            if record.done != NEVER {
                self.latencies[place].push(record.done.saturating_sub(record.due));
            }
        }
        if let Some(place) = self.place(record.done) {
            self.intervals[place].answered += 1;
        }
        if record.served() {
            let busy = &mut self.busy;
            spread(self.window, self.part, (record.started, record.ended), |place, ns| busy[place] += ns);
        }
    }

    fn intervals(mut self) -> Vec<Interval> {
        let length = self.window.1.saturating_sub(self.window.0);
        for (place, interval) in self.intervals.iter_mut().enumerate() {
            let begins = self.part * place as u64;
            let ns = self.part.min(length.saturating_sub(begins)).max(1);
            interval.at_seconds = begins as f64 / 1e9;
            interval.seconds = ns as f64 / 1e9;
            interval.busy_dynos = self.busy[place] as f64 / ns as f64;
            let latencies = &mut self.latencies[place];
            latencies.sort_unstable();
            let at = |quantile: f64| {
                let rank = (quantile * latencies.len() as f64).ceil() as usize;
                latencies.get(rank.saturating_sub(1)).map(|ns| *ns as f64 / 1e6)
            };
            (interval.p50_ms, interval.p99_ms) = (at(0.5), at(0.99));
        }
        self.intervals
    }
}

struct Grid {
    window: (u64, u64),
    part: u64,
    columns: usize,
    dynos: usize,
    rows: usize,
    /// Busy nanoseconds of each cell, row by row.
    cells: Vec<u64>,
}

impl Grid {
    fn new(window: (u64, u64), dynos: usize) -> Self {
        let (part, columns) = parts(window, COLUMNS);
        let dynos = dynos.max(1);
        let rows = dynos.div_ceil(dynos.div_ceil(ROWS));
        Self { window, part, columns, dynos, rows, cells: vec![0; rows * columns] }
    }

    /// The row of a dyno: neighbours share one, as many as it takes.
    fn each(&self) -> usize {
        self.dynos.div_ceil(self.rows)
    }

    fn add(&mut self, record: &Record) {
        let row = record.dyno as usize / self.each();
        if !record.served() || row >= self.rows {
            return;
        }
        let cells = &mut self.cells[row * self.columns..(row + 1) * self.columns];
        spread(self.window, self.part, (record.started, record.ended), |place, ns| cells[place] += ns);
    }

    fn occupancy(&self) -> Occupancy {
        let row = |(number, cells): (usize, &[u64])| {
            let members = self.each().min(self.dynos - number * self.each()) as u64;
            cells.iter().enumerate().map(|(column, ns)| self.digit(column, *ns, members)).collect()
        };
        Occupancy {
            dynos: u32::try_from(self.dynos).unwrap_or(u32::MAX),
            column_seconds: self.part as f64 / 1e9,
            rows: self.cells.chunks(self.columns).enumerate().map(row).collect(),
        }
    }

    /// The share of a cell in which its dynos were busy, in ninths.
    fn digit(&self, column: usize, ns: u64, members: u64) -> char {
        let length = self.window.1.saturating_sub(self.window.0);
        let part = self.part.min(length.saturating_sub(self.part * column as u64)).max(1);
        let share = (ns as f64 / (part * members) as f64).clamp(0.0, 1.0);
        char::from_digit((share * 9.0 + 0.5) as u32, 10).unwrap_or('9')
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::histogram;

    const MS: u64 = 1_000_000;

    fn record(dyno: u32, due: u64, started: u64, ended: u64) -> Record {
        Record { due, arrived: due, started, ended, done: ended, service: ended - started, dyno }
    }

    fn curves(records: &[Record], window: (u64, u64), dynos: usize) -> Curves {
        let mut latency = histogram();
        records.iter().for_each(|r| latency.saturating_record(r.done.saturating_sub(r.due)));
        Curves::of(records.iter(), window, dynos, [&latency, &histogram(), &histogram()])
    }

    #[test]
    fn a_dyno_that_works_half_the_time_is_half_busy() {
        let window = (100 * MS, 300 * MS);
        let records = [record(0, 90 * MS, 90 * MS, 200 * MS), record(1, 100 * MS, 100 * MS, 400 * MS)];
        let curves = curves(&records, window, 2);
        let grid = curves.occupancy.as_ref().unwrap();
        assert_eq!((grid.dynos, grid.rows.len()), (2, 2));
        let half = grid.rows[0].len() / 2;
        assert!(grid.rows[0][..half].bytes().all(|digit| digit == b'9'), "{grid:?}");
        assert!(grid.rows[0][half..].bytes().all(|digit| digit == b'0'), "{grid:?}");
        assert!(grid.rows[1].bytes().all(|digit| digit == b'9'), "{grid:?}");
        let busy: f64 = curves.timeline.iter().map(|i| i.busy_dynos * i.seconds).sum();
        assert!((busy - 0.3).abs() < 1e-9, "{busy}");
    }

    #[test]
    fn the_timeline_counts_each_request_once_and_knows_faults() {
        let mut records: Vec<_> = (0..100).map(|n| record(0, n * MS, n * MS, n * MS + MS / 2)).collect();
        records[7].done = NEVER;
        records[8].started = NEVER;
        let timeline = curves(&records, (0, 100 * MS), 1).timeline;
        let sum = |of: fn(&Interval) -> u64| timeline.iter().map(of).sum::<u64>();
        assert_eq!((sum(|i| i.sent), sum(|i| i.answered), sum(|i| i.faults)), (100, 99, 2));
        assert!(timeline.iter().all(|i| i.p50_ms == Some(0.5)), "{timeline:?}");
    }

    #[test]
    fn the_size_is_bounded_whatever_the_run() {
        let records: Vec<_> = (0..10_000u32).map(|n| record(n, 0, 0, 3_600_000 * MS)).collect();
        let curves = curves(&records, (0, 3_600_000 * MS), 10_000);
        let grid = curves.occupancy.unwrap();
        assert!(grid.rows.len() <= ROWS && grid.rows.iter().all(|row| row.len() <= COLUMNS as usize));
        assert!(grid.rows.iter().all(|row| row.bytes().all(|digit| digit == b'9')));
        assert!(curves.timeline.len() <= INTERVALS as usize);
        assert!(curves.latency.len() < 100);
    }

    #[test]
    fn quantiles_end_where_the_count_does() {
        let mut all = histogram();
        assert!(quantiles(&all).is_empty());
        (1..=1000).for_each(|ms| all.saturating_record(ms * MS));
        let points = quantiles(&all);
        let (first, last) = (points[0], points[points.len() - 1]);
        assert!(first.0 == 0.0 && (last.0 - 0.999).abs() < 1e-6, "{first:?} {last:?}");
        assert!((last.1 - 999.0).abs() < 2.0, "{last:?}");
        assert!(points.windows(2).all(|pair| pair[0].1 <= pair[1].1));
    }
}
