//! Which plots a page has, and from which figures.

use super::plot::{Axis, Heat, Hue, Line, Plot, short};
use super::verdict::{ideal_throughput, medians, named};
use crate::curves::{Curves, Interval};
use crate::figures::{Point, at, points, proxies};
use crate::number::count;
use crate::report::{Report, median};
use crate::results::Results;

/// All heat maps of a page together have at most so many cells.
const CELLS: usize = 12_000;
/// Waits below this many milliseconds are not told apart.
const LEAST_MS: f64 = 0.001;
/// So many points draw the curve of theory.
const STEPS: u32 = 200;

/// All plots that the results have data for.
pub fn plots(results: &Results) -> Vec<Plot> {
    let mut all = Vec::new();
    if results.runs.is_empty() {
        return all;
    }
    if points(&results.runs).len() == 1 {
        all.extend(tail(results, "latency", "Latency", |curves| &curves.latency));
        all.extend(tail(results, "wait", "Wait in line", |curves| &curves.wait));
        all.extend(timeline(results, "rate", "Answers over time", "answers a second", |i| {
            (i.seconds > 0.0).then(|| i.answered as f64 / i.seconds)
        }));
        all.extend(timeline(results, "tail", "Latency over time", "99th percentile, ms", |i| i.p99_ms));
        all.extend(heats(results));
    } else if results.over.as_deref() == Some("dynos") {
        all.extend(throughput(results));
        all.extend(share(results));
    }
    all.extend(wait_against_load(results));
    all
}

fn x(lines: &[Line]) -> impl Iterator<Item = f64> {
    lines.iter().flat_map(|line| line.points.iter().map(|point| point.0))
}

fn y(lines: &[Line]) -> impl Iterator<Item = f64> {
    lines.iter().flat_map(|line| line.points.iter().map(|point| point.1))
}

/// The runs of a proxy.
fn runs<'a>(results: &'a Results, name: &str) -> Vec<&'a Report> {
    results.runs.iter().filter(|run| run.proxy == name).collect()
}

/// The middle of several curves, point by point, as far as all go: one in so many requests, and milliseconds.
fn middle(curves: &[&Vec<(f64, f64)>]) -> Vec<(f64, f64)> {
    let length = curves.iter().map(|curve| curve.len()).min().unwrap_or(0);
    let point = |place: usize| {
        let ms = median(curves.iter().map(|curve| curve[place].1).collect())?;
        Some((1.0 / (1.0 - curves[0][place].0).max(1e-9), ms.max(LEAST_MS)))
    };
    (0..length).filter_map(point).collect()
}

fn percentile(one_in: f64) -> String {
    let percent = (1.0 - 1.0 / one_in) * 100.0;
    // As many digits as tell it from 100.
    let digits = 10f64.powf(one_in.log10().round().clamp(0.0, 6.0));
    format!("p{}", (percent * digits).round() / digits)
}

/// A distribution with its tail: percentiles to the right, ever rarer.
fn tail(results: &Results, id: &str, title: &str, of: fn(&Curves) -> &Vec<(f64, f64)>) -> Option<Plot> {
    let curve = |name: &str, of: fn(&Curves) -> &Vec<(f64, f64)>| {
        middle(&runs(results, name).iter().map(|run| of(&run.curves)).collect::<Vec<_>>())
    };
    let names = proxies(&results.runs);
    let mut lines: Vec<Line> = names
        .iter()
        .enumerate()
        .map(|(number, name)| Line {
            name: (*name).to_owned(),
            hue: Hue::Proxy(number),
            points: curve(name, of),
            marks: false,
        })
        .collect();
    if id == "wait" && results.exclusive() {
        let points = curve(names.first()?, |curves| &curves.ideal_wait);
        let name = "the ideal line, on the first proxy's arrivals".to_owned();
        lines.push(Line { name, hue: Hue::Ideal, points, marks: false });
    }
    if lines.iter().all(|line| line.points.len() < 2) {
        return None;
    }
    let rare = Axis::log("percentile of the requests", x(&lines), 1.0);
    let ticks = [1.0, 2.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6];
    let about = format!("{title} in milliseconds by percentile, with ever rarer requests to the right.");
    let y = Axis::log("milliseconds", y(&lines), LEAST_MS);
    let x = rare.ticks(ticks, percentile);
    Some(Plot { id: id.to_owned(), title: title.to_owned(), about, x, y, lines, heat: None })
}

/// A figure of each interval of each proxy's first round.
fn timeline(
    results: &Results,
    id: &str,
    title: &str,
    unit: &str,
    of: impl Fn(&Interval) -> Option<f64>,
) -> Option<Plot> {
    let mut lines = Vec::new();
    for (number, name) in proxies(&results.runs).into_iter().enumerate() {
        let first = runs(results, name).first().map_or(&[][..], |run| run.curves.timeline.as_slice());
        let points: Vec<_> =
            first.iter().filter_map(|i| Some((i.at_seconds + i.seconds / 2.0, of(i)?))).collect();
        if points.len() > 1 {
            lines.push(Line { name: name.to_owned(), hue: Hue::Proxy(number), points, marks: false });
        }
    }
    if lines.is_empty() {
        return None;
    }
    let (time, value) = (Axis::linear("seconds", x(&lines)), Axis::linear(unit, y(&lines)));
    let about = format!("{title}, in intervals of the first round.");
    Some(Plot { id: id.to_owned(), title: title.to_owned(), about, x: time, y: value, lines, heat: None })
}

/// Which dyno was busy when, for each proxy's first round.
fn heats(results: &Results) -> Vec<Plot> {
    let names = proxies(&results.runs);
    let budget = CELLS / names.len().max(1);
    let heat = |(number, name): (usize, &&str)| {
        let run = runs(results, name).into_iter().find(|run| run.curves.occupancy.is_some())?;
        let grid = run.curves.occupancy.as_ref()?;
        let columns = grid.rows.first()?.len();
        let rows = coarser(&grid.rows, budget);
        Some(Plot {
            id: format!("dynos-{number}"),
            title: format!("Which dyno was busy when: {name}"),
            about: format!(
                "One row a dyno, time to the right; the fuller a cell, the busier the dyno. Proxy: {name}."
            ),
            x: Axis::between("seconds", 0.0, grid.column_seconds * columns as f64),
            y: Axis::between("dyno", 0.0, f64::from(grid.dynos)),
            lines: Vec::new(),
            heat: Some(Heat { hue: Hue::Proxy(number), rows }),
        })
    };
    names.iter().enumerate().filter_map(heat).collect()
}

/// The same grid with neighbours averaged until it has no more than so many cells.
fn coarser(rows: &[String], most: usize) -> Vec<String> {
    let columns = rows.first().map_or(0, String::len).max(1);
    let tall = rows.len().div_ceil(most.isqrt().max(1)).max(1);
    let wide = columns.div_ceil((most / rows.len().div_ceil(tall).max(1)).max(1)).max(1);
    let mean = |rows: &[String], from: usize| {
        let cells = rows.iter().flat_map(|row| row.bytes().skip(from).take(wide));
        let (sum, count) = cells.fold((0, 0), |(sum, count), cell| {
            (sum + u32::from(cell.saturating_sub(b'0').min(9)), count + 1)
        });
        char::from_digit((sum + count / 2) / count.max(1), 10).unwrap_or('9')
    };
    rows.chunks(tall).map(|rows| (0..columns).step_by(wide).map(|from| mean(rows, from)).collect()).collect()
}

/// A figure of each proxy at each point: one line a proxy.
fn by_point(results: &Results, key: &str, place: impl Fn(Point, &Report) -> Option<f64>) -> Vec<Line> {
    let Some(figure) = named(key) else { return Vec::new() };
    let names = proxies(&results.runs);
    let line = |(number, name): (usize, &&str)| {
        let mut found: Vec<(f64, f64)> = points(&results.runs)
            .into_iter()
            .filter_map(|point| {
                let runs = at(&results.runs, name, point);
                Some((place(point, runs.first()?)?, medians(results, figure, point)[number]?))
            })
            .collect();
        found.sort_by(|one, other| one.0.total_cmp(&other.0));
        Line { name: (*name).to_owned(), hue: Hue::Proxy(number), points: found, marks: true }
    };
    names.iter().enumerate().map(line).collect()
}

/// Throughput against dynos, beside the ideal line.
fn throughput(results: &Results) -> Option<Plot> {
    let mut lines = by_point(results, "answers_per_second", |point, _| Some(f64::from(point.0)));
    let ideal: Vec<(f64, f64)> = points(&results.runs)
        .into_iter()
        .filter_map(|point| Some((f64::from(point.0), ideal_throughput(results, point.0)?)))
        .collect();
    lines.push(Line {
        name: "ideal: no dyno ever waits".to_owned(),
        hue: Hue::Ideal,
        points: ideal,
        marks: false,
    });
    let dynos =
        Axis::log("dynos", x(&lines), 1.0).ticks(points(&results.runs).iter().map(|p| f64::from(p.0)), short);
    let y = Axis::log("answers a second", y(&lines), LEAST_MS);
    Some(Plot {
        id: "throughput".to_owned(),
        title: "Throughput against dynos".to_owned(),
        about: "Answers a second by number of dynos; each dyno adds as much as the one before as far as the lines \
                keep to the ideal one."
            .to_owned(),
        x: dynos,
        y,
        lines,
        heat: None,
    })
}

/// The same as a share of the ideal, where differences can be seen.
fn share(results: &Results) -> Option<Plot> {
    let mut lines = by_point(results, "answers_per_second", |point, _| Some(f64::from(point.0)));
    for point in lines.iter_mut().flat_map(|line| &mut line.points) {
        point.1 *= 100.0 / ideal_throughput(results, point.0 as u32)?;
    }
    let least = y(&lines).fold(100.0, f64::min);
    let most = y(&lines).fold(100.0, f64::max);
    let dynos =
        Axis::log("dynos", x(&lines), 1.0).ticks(points(&results.runs).iter().map(|p| f64::from(p.0)), short);
    Some(Plot {
        id: "share".to_owned(),
        title: "Share of the ideal throughput".to_owned(),
        about: "Throughput in percent of what dynos give that never wait for the next request.".to_owned(),
        x: dynos,
        y: Axis::between("percent of the ideal", (least - 2.0).max(0.0), most + 1.0),
        lines,
        heat: None,
    })
}

/// Mean wait against load, beside the ideal line on the same arrivals and what theory says.
fn wait_against_load(results: &Results) -> Option<Plot> {
    let dynos = points(&results.runs).first()?.0;
    if results.runs.iter().any(|run| run.dynos != dynos || run.load.is_none()) {
        return None;
    }
    let mut lines = by_point(results, "wait_mean_ms", |_, run| run.load);
    let mut ideal = by_point(results, "ideal_wait_mean_ms", |_, run| run.load).into_iter().next()?;
    (ideal.name, ideal.hue) = ("the ideal line, on the first proxy's arrivals".to_owned(), Hue::Ideal);
    lines.push(ideal);
    let most = x(&lines).fold(0.0, f64::max).clamp(0.5, 0.99);
    let scale = results.service.mean_ms * f64::midpoint(1.0, results.service.scv);
    let curve = (1..=STEPS).map(|step| most * f64::from(step) / f64::from(STEPS));
    let curve: Vec<_> = curve.map(|load| (load, erlang_c(dynos, load) * scale)).collect();
    // Theory counts for the range of the axis where something was measured, and a little below.
    let lowest = x(&lines).fold(1.0, f64::min) * 0.8;
    let near = curve.iter().filter(|(load, _)| *load >= lowest).map(|(_, ms)| *ms);
    let measured = Axis::log("mean wait, ms", y(&lines).chain(near), LEAST_MS);
    let theory =
        if (results.service.scv - 1.0).abs() < 0.05 { "Erlang C" } else { "Erlang C, corrected for spread" };
    lines.push(Line { name: theory.to_owned(), hue: Hue::Theory, points: curve, marks: false });
    Some(Plot {
        id: "load".to_owned(),
        title: "Wait against load".to_owned(),
        about: format!(
            "Mean wait in milliseconds in front of {} by load, beside the ideal line and what theory says \
             of it (M/M/c, times half of one plus the squared coefficient of variation, {}).",
            count(dynos, "dyno"),
            short(results.service.scv)
        ),
        x: Axis::between("load: share of the dynos' capacity", 0.0, x(&lines).fold(1.0, f64::max)),
        y: measured,
        lines,
        heat: None,
    })
}

/// The mean wait of M/M/c, in service times.
fn erlang_c(dynos: u32, load: f64) -> f64 {
    let offered = f64::from(dynos) * load;
    let blocking = (1..=dynos).fold(1.0, |blocked, n| offered * blocked / (f64::from(n) + offered * blocked));
    let waits = blocking / (1.0 - load * (1.0 - blocking));
    waits / (f64::from(dynos) * (1.0 - load))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::sample;

    fn names(results: &Results) -> Vec<String> {
        plots(results).into_iter().map(|plot| plot.id).collect()
    }

    #[test]
    fn each_kind_of_results_has_its_plots() {
        let mut results = sample(&["routerd", "haproxy"], 2);
        assert_eq!(names(&results), ["latency", "wait", "rate", "tail", "dynos-0", "dynos-1", "load"]);
        for run in &mut results.runs {
            (run.rate, run.load) = (None, None);
        }
        let more: Vec<Report> = results.runs.iter().map(|run| Report { dynos: 20, ..run.clone() }).collect();
        results.runs.extend(more);
        results.over = Some("dynos".to_owned());
        assert_eq!(names(&results), ["throughput", "share"]);
        results.runs.clear();
        assert!(names(&results).is_empty());
    }

    #[test]
    fn a_plot_has_a_line_a_proxy_and_the_ideal_one() {
        let plots = plots(&sample(&["routerd", "haproxy"], 2));
        let lines = |id: &str| {
            let plot = plots.iter().find(|plot| plot.id == id).unwrap();
            plot.lines.iter().map(|line| line.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(lines("latency"), ["routerd", "haproxy"]);
        assert_eq!(lines("wait").len(), 3);
        assert_eq!(lines("load")[3], "Erlang C");
    }

    #[test]
    fn known_waits_of_theory() {
        assert!((erlang_c(1, 0.5) - 1.0).abs() < 1e-9);
        assert!((erlang_c(100, 0.95) - 0.1013).abs() < 0.0005);
        assert_eq!(percentile(1e3), "p99.9");
    }

    #[test]
    fn a_grid_is_made_coarser_until_it_fits() {
        let rows = vec!["09".repeat(200); 200];
        let small = coarser(&rows, 1_000);
        assert!(small.iter().map(String::len).sum::<usize>() <= 1_100, "{}", small.len());
        assert!(small.iter().all(|row| row.bytes().all(|cell| (b'4'..=b'5').contains(&cell))), "{small:?}");
        assert_eq!(coarser(&rows[..2], 1_000), rows[..2]);
        // A file may have anything in it.
        assert_eq!(coarser(&["!~".to_owned()], 1_000), ["09"]);
    }
}
