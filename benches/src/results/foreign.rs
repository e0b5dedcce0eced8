//! What a results file says may come from anybody, and is shown on terminals, in tables and in pages.

use std::borrow::Cow;

use super::{Knee, Results};
use crate::compare::Failure;
use crate::comparison::Party;
use crate::printable::{printable, printable_lines};
use crate::report::Report;

impl Results {
    /// Escapes the control characters in all text that was read; words of several lines keep their lines.
    pub(super) fn make_printable(&mut self) {
        [&mut self.tool, &mut self.command, &mut self.machine.cpu, &mut self.machine.kernel]
            .into_iter()
            .chain(&mut self.over)
            .for_each(one);
        self.partial.iter_mut().for_each(lines);
        let scenario = std::mem::take(&mut self.scenario).into_iter();
        self.scenario = scenario.map(|(name, word)| (shown(&name), printable_lines(&word))).collect();
        self.runs.iter_mut().for_each(run);
        for Knee { proxy, why, words, .. } in &mut self.knees {
            [proxy, words].into_iter().chain(why).for_each(one);
        }
        for Party { name, version, form, skipped, .. } in &mut self.parties {
            [name, form].into_iter().chain(version).for_each(one);
            skipped.iter_mut().for_each(lines);
        }
        for Failure { proxy, why, .. } in &mut self.failures {
            one(proxy);
            lines(why);
        }
    }
}

fn run(report: &mut Report) {
    one(&mut report.proxy);
    let mut faults = std::collections::BTreeMap::<String, u64>::new();
    for (fault, count) in std::mem::take(&mut report.faults) {
        let sum = faults.entry(shown(&fault)).or_default();
        *sum = sum.saturating_add(count);
    }
    report.faults = faults;
    for overlap in &mut report.overlaps_shown {
        for id in [&mut overlap.served_id, &mut overlap.came_id].into_iter().flatten() {
            *id = printable(id).into();
        }
    }
    report.dyno_notes.iter_mut().for_each(lines);
    report.generator.doubts.iter_mut().chain(&mut report.generator.advice).for_each(lines);
}

fn one(text: &mut String) {
    if let Cow::Owned(shown) = printable(text) {
        *text = shown;
    }
}

fn lines(text: &mut String) {
    *text = printable_lines(text);
}

fn shown(text: &str) -> String {
    printable(text).into_owned()
}
