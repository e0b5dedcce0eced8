//! What is drawn has the mean, the variance and the percentiles that were asked for, and texts read back.

use std::io::Write;

use super::*;

fn service(text: &str) -> Service {
    text.parse().unwrap_or_else(|why| panic!("{why}"))
}

/// Sorted draws, in seconds.
fn sample(service: &Service, count: u32) -> Vec<f64> {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut drawn: Vec<f64> = (0..count).map(|_| service.draw(&mut rng) as f64 / 1e9).collect();
    drawn.sort_by(f64::total_cmp);
    drawn
}

fn at(sorted: &[f64], quantile: f64) -> f64 {
    sorted[(quantile * sorted.len() as f64) as usize]
}

fn near(measured: f64, wanted: f64, share: f64, what: &str) {
    assert!((measured / wanted - 1.0).abs() <= share, "{what}: {measured}, and it should be {wanted}");
}

fn moments(sample: &[f64]) -> (f64, f64) {
    let mean = sample.iter().sum::<f64>() / sample.len() as f64;
    let variance = sample.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / sample.len() as f64;
    (mean, variance / mean / mean)
}

#[test]
fn a_fixed_service_time_is_always_the_same() {
    let fixed = service("fixed:10ms");
    assert!(sample(&fixed, 100).iter().all(|s| *s == 0.01));
    assert_eq!((fixed.mean(), fixed.scv()), (0.01, 0.0));
}

#[test]
fn what_is_drawn_has_the_mean_and_the_variance_that_it_says() {
    for (text, mean, scv) in [
        ("exp:10ms", 0.010, 1.0),
        // exp(mu + sigma^2 / 2) and exp(sigma^2) - 1 with sigma = ln 4 / 2.3263.
        ("lognormal:50ms,200ms", 0.059_716, 0.426_31),
        // scale * gamma(1 + 1/2) and 4 / pi - 1.
        ("weibull:2,10ms", 0.008_862, 0.273_24),
        // shape / (shape - 1) and 1 / (shape (shape - 2)).
        ("pareto:3.5,10ms", 0.014, 0.190_48),
        ("bimodal:90%5ms,10%100ms", 0.0145, 3.863_3),
        ("bimodal:50%1ms,25%2ms,25%4ms", 0.002, 0.375),
    ] {
        let service = service(text);
        near(service.mean(), mean, 1e-3, text);
        near(service.scv(), scv, 5e-3, text);
        let drawn = moments(&sample(&service, 400_000));
        near(drawn.0, mean, 0.01, text);
        near(drawn.1, scv, 0.1, text);
    }
}

#[test]
fn percentiles_are_those_of_the_distribution() {
    for (text, median, p99) in [
        ("exp:10ms", 0.010 * 2.0_f64.ln(), 0.010 * 100.0_f64.ln()),
        ("lognormal:50ms,400ms", 0.050, 0.400),
        ("weibull:0.8,79.056ms", 0.079_056 * 2.0_f64.ln().powf(1.25), 0.079_056 * 100.0_f64.ln().powf(1.25)),
        ("pareto:1.5,20ms", 0.020 * 2.0_f64.powf(1.0 / 1.5), 0.020 * 100.0_f64.powf(1.0 / 1.5)),
        ("bimodal:98%5ms,2%100ms", 0.005, 0.100),
    ] {
        let drawn = sample(&service(text), 300_000);
        near(at(&drawn, 0.5), median, 0.02, text);
        near(at(&drawn, 0.99), p99, 0.04, text);
    }
}

#[test]
fn rapgenius_times_match_the_published_figures() {
    let rapgenius = service("rapgenius");
    let drawn = sample(&rapgenius, 400_000);
    // The re-run of the published simulation: mean 265 ms, median 51, p99 3.1 s, SCV 6.2.
    near(rapgenius.mean(), 0.265, 0.01, "mean");
    near(rapgenius.scv(), 6.2, 0.05, "SCV");
    near(moments(&drawn).0, rapgenius.mean(), 0.02, "mean of the draws");
    near(at(&drawn, 0.5), 0.050, 0.03, "median");
    near(at(&drawn, 0.99), 3.1, 0.05, "p99");
    assert_eq!((drawn[0], *drawn.last().unwrap() <= 30.0), (0.01, true));
}

#[test]
fn no_time_is_longer_than_300_s_and_the_mean_knows() {
    let heavy = service("pareto:0.5,10s");
    let drawn = sample(&heavy, 100_000);
    assert_eq!(*drawn.last().unwrap(), 300.0);
    near(moments(&drawn).0, heavy.mean(), 0.02, "mean");
    near(moments(&drawn).1, heavy.scv(), 0.05, "SCV");
    let long = service("exp:300s");
    near(moments(&sample(&long, 100_000)).0, long.mean(), 0.01, "exponential mean");
    near(moments(&sample(&long, 100_000)).1, long.scv(), 0.03, "exponential SCV");
}

#[test]
fn a_factor_makes_all_times_longer() {
    for text in
        ["fixed:10ms", "exp:10ms", "lognormal:5ms,9ms", "weibull:0.7,5ms", "pareto:2.5,5ms", "rapgenius"]
    {
        let (plain, scaled) = (service(text), service(text).scaled(0.1));
        near(scaled.mean(), plain.mean() * 0.1, 1e-6, text);
        assert_eq!(service(&format!("{text} x 0.1")), scaled, "{text}");
    }
    assert_eq!(service("exp:10ms").scaled(2.0).mean(), 0.02);
    near(service("bimodal:90%5ms,10%100ms x 2").mean(), 0.029, 1e-9, "bimodal");
}

#[test]
fn what_is_written_can_be_read() {
    for text in [
        "fixed:10ms",
        "exp:1m 30s",
        "lognormal:50ms,400ms",
        "weibull:0.46,110ms 900us",
        "pareto:1.5,20ms",
        "bimodal:90%5ms,10%100ms",
        "bimodal:99.5%5ms,0.5%1s x 3",
        "rapgenius",
        "rapgenius x 0.25",
    ] {
        assert_eq!(service(text).to_string(), text);
        let third = service(text).scaled(1.0 / 3.0);
        assert_eq!(third.to_string().parse(), Ok(third), "{text}");
    }
}

#[test]
fn a_wrong_service_time_says_what_is_allowed() {
    for wrong in [
        "exp",
        "fixed:0s",
        "fixed:10",
        "uniform:1s",
        "rapgenius:1s",
        "exp:301s",
        "exp:10ms x 0",
        "lognormal:5ms",
        "lognormal:5ms,4ms",
        "weibull:0,5ms",
        "weibull:5ms,1",
        "pareto:0.4,1s",
        "pareto:1.5",
        "bimodal:90%5ms",
        "bimodal:90%5ms,20%1s",
        "bimodal:5ms,1s",
        "bimodal:-10%5ms,110%1s",
        "bimodal:",
        "file:",
        "",
        ":",
        "instant",
    ] {
        assert!(wrong.parse::<Service>().is_err(), "{wrong}");
    }
    for (wrong, why) in [
        ("gamma", "rapgenius"),
        ("bimodal:90%5ms,20%1s", "come to 110 %"),
        ("lognormal:5ms", "MEDIAN,P99"),
        ("weibull:0,5ms", "from 0.1 to 100"),
        ("exp:301s", "at most 300s"),
        ("file:/nowhere", "/nowhere"),
    ] {
        let said = wrong.parse::<Service>().unwrap_err();
        assert!(said.contains(why), "{wrong}: {said}");
    }
}

fn file(text: &[u8]) -> (tempfile::NamedTempFile, String) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text).unwrap();
    let name = format!("file:{}", file.path().display());
    (file, name)
}

#[test]
fn a_file_has_times_with_or_without_counts_and_its_garbage_is_named() {
    let (_file, name) = file(b"# milliseconds\n10\n20ms 2\n\n0.04s, 1\nsoon\n-5\n7 x\n\xff\xfe\n1 2 3\n");
    let times = service(&name);
    near(times.mean(), 0.0225, 1e-9, "mean");
    let warnings = times.warnings();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("no service time in 5 lines: line 6: \"soon\", line 7"), "{warnings:?}");
    let drawn = sample(&times, 10_000);
    assert_eq!((drawn[0], at(&drawn, 0.5), *drawn.last().unwrap()), (0.01, 0.02, 0.04));
    let twice = times.scaled(2.0);
    assert_eq!(twice.to_string().parse(), Ok(twice), "a scaled one reads back");
    for (text, why) in
        [(&b"soon\nlater\n"[..], "2 lines"), (b"", "no service time"), (b"0\n0 5\n5 0\n", "no service")]
    {
        let (_file, name) = file(text);
        let said = name.parse::<Service>().unwrap_err();
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn times_and_counts_without_end_are_no_panic() {
    let (_file, name) = file(b"inf\nNaN\n1e400\n-inf\n");
    assert!(name.parse::<Service>().unwrap_err().contains("4 lines"));
    let most = format!("1 {0}\n1 {0}\n2 {0}\n", u64::MAX);
    let (_file, name) = file(most.as_bytes());
    assert_eq!(service(&name).draw(&mut fastrand::Rng::with_seed(1)), 1_000_000);
}

#[test]
fn a_factor_that_leaves_nothing_of_a_time_is_refused() {
    for text in [
        "fixed:1ns x 0.4",
        "exp:5us x 0.00001",
        "lognormal:1us,10us x 0.0001",
        "weibull:1,1ns x 0.1",
        "pareto:2,1ns x 0.1",
        "rapgenius x 0.000000000001",
        "bimodal:50%1us,50%2us x 0.0000001",
    ] {
        let said = text.parse::<Service>().unwrap_err();
        assert!(said.contains("nothing is left"), "{text}: {said}");
    }
    assert!(service("lognormal:1us,10us x 0.001").is_some_time() && !Service::Instant.is_some_time());
}

#[test]
fn the_print_of_an_hdr_histogram_is_a_file_of_times() {
    let hgrm = b"       Value     Percentile TotalCount 1/(1-Percentile)\n\n\
        5.000 0.000000000000         50           1.00\n\
        10.000 0.500000000000        90           2.00\n     100.000 1.000000000000        100\n\
        #[Mean    =        5.0, StdDeviation   =        1.0]\n";
    let csv = b"\"Value\",\"Percentile\",\"TotalCount\",\"1/(1-Percentile)\"\n\
        5.0,0.0,50,1.00\n10.0,0.5,90,2.0\n100.0,1.0,100,Infinity\n";
    for text in [&hgrm[..], csv] {
        let (_file, name) = file(text);
        let times = service(&name);
        assert!(times.warnings().is_empty(), "{:?}", times.warnings());
        near(times.mean(), 0.5 * 0.005 + 0.4 * 0.010 + 0.1 * 0.100, 1e-9, "mean");
    }
}
