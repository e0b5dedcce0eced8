//! The generator's own error: what it measures without a proxy, beside what Erlang C says of the same line.

use std::io::{self, Write};
use std::time::Duration;

use router_bench::compare::Scenario;
use router_bench::dyno::Behaviour;
use router_bench::engine::Pacing;
use router_bench::erlang;
use router_bench::number::count;
use router_bench::report::Report;
use router_bench::service::Service;

/// Writes measured and theory, or why there is no theory.
pub(crate) fn print(out: &mut impl Write, scenario: &Scenario, reports: &[Report]) -> io::Result<()> {
    let (rate, mean) = match assumed(scenario, reports) {
        Ok(known) => known,
        Err(why) => return writeln!(out, "Erlang C is left out: {why}"),
    };
    let (dynos, mean) = (u32::from(scenario.dynos), mean.as_secs_f64());
    let load = rate * mean / f64::from(dynos);
    if load >= 1.0 {
        return writeln!(out, "Erlang C: at load {load:.2} the line grows without end");
    }
    let theory = erlang::mean_wait(dynos, load, 1.0) * mean * 1e3;
    writeln!(out, "Erlang C, {} at load {load:.3}: mean wait {theory:.3} ms", count(dynos, "dyno"))?;
    // Dynos whose timers are late work longer than was asked for.
    let (busy, _) = estimate(&reports.iter().map(|report| report.dynos_busy).collect::<Vec<_>>());
    if busy > 0.0 && busy < 1.0 {
        let theory = erlang::mean_wait(dynos, busy, 1.0) * mean * busy / load * 1e3;
        writeln!(out, "  at the load that really was, {busy:.3}: {theory:.3} ms")?;
    }
    let line = |out: &mut dyn Write, name: &str, value: fn(&Report) -> f64| {
        let (middle, noise) = estimate(&reports.iter().map(value).collect::<Vec<_>>());
        let noise = noise.map_or_else(
            || "noise unknown with one round: see --rounds".to_owned(),
            |noise| format!("+- {noise:.3} over {} rounds", reports.len()),
        );
        writeln!(out, "  {name:32}{middle:>10.3} ms  {noise}")
    };
    line(out, "measured", |report| report.wait.mean_ms)?;
    line(out, "ideal line, the same arrivals", |report| report.ideal_wait.mean_ms)?;
    line(out, "measured more than the ideal", |report| report.excess.mean_ms)
}

/// Rate and mean service time, where Erlang C speaks of such a run; otherwise why it does not.
fn assumed(scenario: &Scenario, reports: &[Report]) -> Result<(f64, Duration), String> {
    let (Pacing::Poisson(rate), Service::Exponential(mean)) = (&scenario.pacing, &scenario.service) else {
        return Err("it is of --service exp:MEAN and arrivals at random, with --load or --rate".to_owned());
    };
    let Behaviour { warm_up, pauses, crash, crash_every, boot, .. } = &scenario.behaviour;
    let broken = [
        (warm_up.is_some(), "--warm-up"),
        (pauses.is_some(), "--gc"),
        (*crash > 0.0, "--crash"),
        (crash_every.is_some(), "--crash-every"),
        (!boot.is_zero(), "--boot"),
    ];
    let broken: Vec<_> = broken.iter().filter(|(is, _)| *is).map(|(_, option)| *option).collect();
    if !broken.is_empty() {
        return Err(format!("it is of dynos that do nothing but serve, without {}", broken.join(", ")));
    }
    if reports.iter().any(|report| report.faults() > 0) {
        return Err("it is of requests that all wait until they are served, and there were faults".to_owned());
    }
    Ok((*rate, *mean))
}

/// Mean, and twice its standard error.
fn estimate(values: &[f64]) -> (f64, Option<f64>) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count.max(1.0);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (values.len() > 1).then(|| 2.0 * (squares / (count - 1.0) / count).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_has_its_noise() {
        assert_eq!(estimate(&[2.0]), (2.0, None));
        let (mean, noise) = estimate(&[1.0, 2.0, 3.0]);
        assert!(mean == 2.0 && (noise.unwrap() - 2.0 / 3.0_f64.sqrt()).abs() < 1e-9);
    }
}
