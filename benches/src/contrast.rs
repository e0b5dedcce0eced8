//! Two sets of runs against each other: which figures differ by more than chance, and which cannot be told.
//!
//! A figure differs if its medians are apart by more than is worth a word, and a rank test over the rounds (the exact
//! permutation test of the sum of ranks, which is Mann-Whitney's) gives so much or more by chance in at most 5 of 100
//! cases. With too few rounds no outcome could be that rare; then it says so and tells nothing.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::figures::{self, Better, FIGURES, Figure, Point};
use crate::report::{Report, median};
use crate::results::Results;

/// The chance of such a difference without a cause, above which it counts as noise.
pub const CHANCE: f64 = 0.05;
/// More ways to deal the rounds to two sides than this are sampled instead of counted.
const COUNTED: u64 = 50_000;
/// So many are sampled.
const SAMPLED: u32 = 50_000;
/// What may differ between two files that are compared: it is named and does not change what is measured.
const LIGHT: &[&str] = &["duration", "generator_threads", "requests", "rounds", "seed", "warmup"];

/// What became of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// It differs, for the better.
    Better,
    /// It differs, for the worse.
    Worse,
    /// It differs, and that is neither good nor bad.
    Different,
    /// The difference is small, or chance gives as much.
    Noise,
    /// No difference could be told from chance with so few rounds.
    TooFewRounds,
}

/// A figure on both sides.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Its name in JSON.
    pub figure: &'static str,
    /// The median before.
    pub before: f64,
    /// The median after.
    pub after: f64,
    /// After divided by before; none if that is 0.
    pub ratio: Option<f64>,
    /// The chance of as much without a cause.
    pub chance: f64,
    /// What became of it.
    pub finding: Finding,
}

/// One proxy at one point, on both sides.
#[derive(Clone, Debug, Serialize)]
pub struct Contrast {
    /// The proxy before.
    pub before: String,
    /// The proxy after: the same, unless each file has one only.
    pub after: String,
    /// How many dynos.
    pub dynos: u32,
    /// The load, if it was an open loop.
    pub load: Option<f64>,
    /// How many rounds each side has.
    pub rounds: (usize, usize),
    /// All figures that both sides have.
    pub lines: Vec<Line>,
}

/// What differs between the scenarios of two files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Differences {
    /// What makes a comparison mean nothing.
    pub grave: Vec<String>,
    /// What is worth knowing.
    pub light: Vec<String>,
}

/// Names what differs between the scenarios of two files.
pub fn differences(before: &Results, after: &Results) -> Differences {
    let mut found = Differences::default();
    let names: BTreeSet<_> = before.scenario.keys().chain(after.scenario.keys()).collect();
    for name in names {
        let (old, new) = (before.scenario.get(name), after.scenario.get(name));
        // What a sweep goes over differs in its runs, which are matched one by one.
        let swept = before.over == after.over && before.over.as_deref() == Some(name);
        if old == new || swept {
            continue;
        }
        let word = |word: Option<&String>| word.map_or_else(|| "not given".to_owned(), Clone::clone);
        let line = format!("{name}: {} before, {} after", word(old), word(new));
        if LIGHT.contains(&name.as_str()) { found.light.push(line) } else { found.grave.push(line) }
    }
    if before.over != after.over {
        let word = |over: &Option<String>| over.clone().unwrap_or_else(|| "nothing".to_owned());
        found.grave.push(format!("a sweep over {} before, {} after", word(&before.over), word(&after.over)));
    }
    if before.machine != after.machine {
        found.light.push(format!("machine: {} before, {} after", before.place(), after.place()));
    }
    if before.tool != after.tool {
        found.light.push(format!("dyno-bench: {} before, {} after", before.tool, after.tool));
    }
    found
}

/// Compares the proxies that both have, at the points that both have; or the one of each, whatever its name.
/// A difference of less than the share `least` counts as noise.
///
/// # Errors
/// When they have nothing in common.
pub fn contrast(before: &Results, after: &Results, least: f64) -> Result<Vec<Contrast>, String> {
    let (old, new) = (figures::proxies(&before.runs), figures::proxies(&after.runs));
    let pairs: Vec<(&str, &str)> = match (old.as_slice(), new.as_slice()) {
        ([one], [other]) => vec![(*one, *other)],
        _ => old.iter().filter(|name| new.contains(name)).map(|name| (*name, *name)).collect(),
    };
    let mut all = Vec::new();
    for point in figures::points(&before.runs) {
        for (one, other) in pairs.iter().copied() {
            let sides = (figures::at(&before.runs, one, point), figures::at(&after.runs, other, point));
            if !sides.0.is_empty() && !sides.1.is_empty() {
                all.push(side_by_side((one, other), point, &sides.0, &sides.1, least));
            }
        }
    }
    if all.is_empty() {
        let (old, new) = (old.join(", "), new.join(", "));
        return Err(format!("nothing to compare: runs of {old} before, of {new} after"));
    }
    Ok(all)
}

fn side_by_side(
    (before, after): (&str, &str),
    (dynos, _): Point,
    old: &[&Report],
    new: &[&Report],
    least: f64,
) -> Contrast {
    Contrast {
        before: before.to_owned(),
        after: after.to_owned(),
        dynos,
        load: old.first().and_then(|run| run.load),
        rounds: (old.len(), new.len()),
        lines: FIGURES.iter().filter_map(|figure| line(figure, old, new, least)).collect(),
    }
}

fn line(figure: &Figure, old: &[&Report], new: &[&Report], least: f64) -> Option<Line> {
    let values = |runs: &[&Report]| runs.iter().filter_map(|run| (figure.of)(run)).collect::<Vec<_>>();
    let (old, new) = (values(old), values(new));
    let (before, after) = (median(old.clone())?, median(new.clone())?);
    let chance = chance(&old, &new);
    let far = (after - before).abs() > least * before.abs().max(after.abs());
    let better = match figure.better {
        Better::Higher => Finding::Better,
        Better::Lower => Finding::Worse,
        Better::Neither => Finding::Different,
    };
    let worse = match figure.better {
        Better::Higher => Finding::Worse,
        Better::Lower => Finding::Better,
        Better::Neither => Finding::Different,
    };
    let direction = if after > before { better } else { worse };
    // One overlap is a broken promise, however many rounds there are.
    let broken = figure.key == "overlaps" && before == 0.0 && new.iter().any(|count| *count > 0.0);
    let finding = if broken {
        Finding::Worse
    } else if !far {
        Finding::Noise
    } else if rarest(old.len(), new.len()) > CHANCE {
        Finding::TooFewRounds
    } else if chance > CHANCE {
        Finding::Noise
    } else {
        direction
    };
    let ratio = (before != 0.0).then(|| after / before);
    Some(Line { figure: figure.key, before, after, ratio, chance, finding })
}

/// In how many ways `of` things can be chosen from `from`.
fn ways(from: usize, of: usize) -> u64 {
    (0..of.min(from - of)).fold(1u64, |ways, n| ways.saturating_mul((from - n) as u64) / (n as u64 + 1))
}

/// The chance of the rarest outcome there can be.
fn rarest(old: usize, new: usize) -> f64 {
    2.0 / ways(old + new, new) as f64
}

/// How often a deal of the same values to the two sides sets their ranks as far apart as they are, or farther.
fn chance(old: &[f64], new: &[f64]) -> f64 {
    let all: Vec<f64> = old.iter().chain(new).copied().collect();
    // Twice the rank, so that ties have whole ones.
    let ranks: Vec<i64> = all
        .iter()
        .map(|value| {
            let below = all.iter().filter(|other| *other < value).count() as i64;
            let same = all.iter().filter(|other| *other == value).count() as i64;
            2 * below + same + 1
        })
        .collect();
    // Twice the sum that a fair deal has on average.
    let expected = new.len() as i64 * (all.len() as i64 + 1);
    let seen = (ranks[old.len()..].iter().sum::<i64>() - expected).abs();
    let (mut as_far, mut deals) = (0u64, 0u64);
    let mut deal = |sum: i64| {
        deals += 1;
        as_far += u64::from((sum - expected).abs() >= seen);
    };
    if ways(all.len(), new.len()) <= COUNTED {
        each_sum(&ranks, new.len(), 0, &mut deal);
    } else {
        let (mut ranks, mut rng) = (ranks, fastrand::Rng::with_seed(1));
        // The deal that was seen is one of them, so that the chance is never 0.
        deal(ranks[old.len()..].iter().sum());
        for _ in 0..SAMPLED {
            rng.shuffle(&mut ranks);
            deal(ranks[old.len()..].iter().sum());
        }
    }
    as_far as f64 / deals as f64
}

/// Calls `deal` with the sum of each choice of `of` ranks.
fn each_sum(ranks: &[i64], of: usize, sum: i64, deal: &mut impl FnMut(i64)) {
    if of == 0 {
        return deal(sum);
    }
    for (place, rank) in ranks.iter().enumerate().take((ranks.len() + 1).saturating_sub(of)) {
        each_sum(&ranks[place + 1..], of - 1, sum + rank, deal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::sample;

    fn finding(contrasts: &[Contrast], figure: &str) -> Finding {
        contrasts[0].lines.iter().find(|line| line.figure == figure).unwrap().finding
    }

    #[test]
    fn chances_are_those_of_the_tables() {
        let apart = |n: usize| chance(&vec![1.0; n], &vec![2.0; n]);
        assert!((apart(3) - 0.1).abs() < 1e-9);
        assert!((apart(4) - 2.0 / 70.0).abs() < 1e-9);
        assert!((rarest(4, 4) - 2.0 / 70.0).abs() < 1e-9);
        assert_eq!(chance(&[1.0, 3.0], &[1.0, 3.0]), 1.0);
        // Mann-Whitney's U = 1 with 4 and 5: twice 2/126.
        let near = chance(&[1.0, 2.0, 3.0, 5.0], &[4.0, 6.0, 7.0, 8.0, 9.0]);
        assert!((near - 4.0 / 126.0).abs() < 1e-9, "{near}");
        let many: Vec<f64> = (0..20).map(f64::from).collect();
        let far: Vec<f64> = (100..120).map(f64::from).collect();
        // Sampled; the deal that was seen is one of them.
        let rare = chance(&many, &far);
        assert!(rare > 0.0 && rare < 0.001, "{rare}");
        // Ties have the mean of their ranks: 1.5, 1.5, 4 against 4, 4, 6, whose sum of 14 has 6 of 20 deals as far.
        let tied = chance(&[1.0, 1.0, 2.0], &[2.0, 2.0, 3.0]);
        assert!((tied - 0.3).abs() < 1e-9, "{tied}");
    }

    #[test]
    fn three_rounds_are_too_few_and_five_are_not() {
        let (few, slow) = (sample(&["a"], 3), sample(&["x", "a"], 3));
        let found = contrast(&few, &slow, 0.02).unwrap();
        assert_eq!(finding(&found, "wait_mean_ms"), Finding::TooFewRounds);
        let (many, slow) = (sample(&["a"], 5), sample(&["x", "a"], 5));
        let found = contrast(&many, &slow, 0.02).unwrap();
        assert_eq!(finding(&found, "wait_mean_ms"), Finding::Worse);
        assert_eq!(finding(&found, "answers_per_second"), Finding::Worse);
        assert_eq!(finding(&contrast(&slow, &many, 0.02).unwrap(), "wait_mean_ms"), Finding::Better);
        assert_eq!(finding(&contrast(&many, &many, 0.02).unwrap(), "wait_mean_ms"), Finding::Noise);
        // 1 and 1.3 are 23 % apart, of the greater one.
        assert_eq!(finding(&contrast(&many, &slow, 0.22).unwrap(), "wait_mean_ms"), Finding::Worse);
        assert_eq!(finding(&contrast(&many, &slow, 0.24).unwrap(), "wait_mean_ms"), Finding::Noise);
        // The same difference is not worth a word when only more than half counts.
        assert_eq!(finding(&contrast(&many, &slow, 0.5).unwrap(), "wait_mean_ms"), Finding::Noise);
    }

    #[test]
    fn one_overlap_is_worse_whatever_the_rounds() {
        let (before, mut after) = (sample(&["a"], 1), sample(&["a"], 1));
        after.runs[0].overlaps = 1;
        let found = contrast(&before, &after, 0.02).unwrap();
        assert_eq!(finding(&found, "overlaps"), Finding::Worse);
    }

    #[test]
    fn other_scenarios_are_named() {
        let (before, mut after) = (sample(&["a"], 1), sample(&["a"], 1));
        assert_eq!(differences(&before, &after), Differences::default());
        after.scenario.insert("seed".to_owned(), "7".to_owned());
        after.scenario.insert("dynos".to_owned(), "20".to_owned());
        after.machine.cores += 1;
        let found = differences(&before, &after);
        assert_eq!(found.grave, ["dynos: 10 before, 20 after"]);
        assert_eq!(found.light.len(), 2, "{found:?}");
        let nothing = contrast(&before, &sample(&["b", "c"], 1), 0.02).unwrap_err();
        assert!(nothing.contains("runs of a before, of b, c after"), "{nothing}");
    }
}
