//! What queueing theory says of one line and of a line at each dyno: the formulas that simulations are held against.
//!
//! All waits are in service times: 0.1 is a tenth of the mean service time. Load is the share of the dynos' capacity,
//! and below 1.

/// The share of requests that wait in one line in front of `dynos` dynos with exponential service times (Erlang C).
///
/// ```
/// use router_bench::erlang;
/// assert!((erlang::erlang_c(10, 0.9) - 0.669).abs() < 0.001);
/// ```
pub fn erlang_c(dynos: u32, load: f64) -> f64 {
    let offered = f64::from(dynos) * load;
    let blocking = (1..=dynos).fold(1.0, |b, n| offered * b / (f64::from(n) + offered * b));
    blocking / (1.0 - load * (1.0 - blocking))
}

/// The mean wait in that line, for service times with this SCV: exact for one dyno and for an SCV of 1, else an
/// approximation (Lee and Longton) that says too much for large SCVs in front of many dynos.
///
/// ```
/// use router_bench::erlang;
/// assert!((erlang::mean_wait(100, 0.95, 1.0) - 0.101).abs() < 0.001);
/// ```
pub fn mean_wait(dynos: u32, load: f64, scv: f64) -> f64 {
    f64::midpoint(1.0, scv) * erlang_c(dynos, load) / (f64::from(dynos) * (1.0 - load))
}

/// The wait in that line that this share of the requests does not exceed, for exponential service times.
///
/// ```
/// use router_bench::erlang;
/// assert!((erlang::wait_quantile(10, 0.9, 0.99) - 4.20).abs() < 0.01);
/// ```
pub fn wait_quantile(dynos: u32, load: f64, quantile: f64) -> f64 {
    let waits = erlang_c(dynos, load);
    let left = 1.0 - quantile;
    if waits <= left { 0.0 } else { (waits / left).ln() / (f64::from(dynos) * (1.0 - load)) }
}

/// The mean wait when each request goes to a dyno at random and waits there, however many dynos there are (Pollaczek
/// and Khinchine).
///
/// ```
/// use router_bench::erlang;
/// assert_eq!(erlang::random_wait(0.5, 1.0), 1.0);
/// ```
pub fn random_wait(load: f64, scv: f64) -> f64 {
    f64::midpoint(1.0, scv) * load / (1.0 - load)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formulas_give_the_published_values() {
        for (dynos, load, waits, mean, p99) in [
            (2, 0.5, 0.333, 0.333, 3.51),
            (10, 0.8, 0.409, 0.205, 1.86),
            (50, 0.9, 0.364, 0.073, 0.719),
            (100, 0.95, 0.506, 0.101, 0.785),
            (1000, 0.99, 0.659, 0.066, 0.419),
        ] {
            assert!((erlang_c(dynos, load) - waits).abs() < 0.001, "{dynos} at {load}");
            assert!((mean_wait(dynos, load, 1.0) / mean - 1.0).abs() < 0.01, "{dynos} at {load}");
            assert!((wait_quantile(dynos, load, 0.99) / p99 - 1.0).abs() < 0.01, "{dynos} at {load}");
        }
        assert_eq!(wait_quantile(1000, 0.5, 0.99), 0.0);
        // One dyno: Pollaczek and Khinchine either way.
        assert!((mean_wait(1, 0.9, 4.0) - random_wait(0.9, 4.0)).abs() < 1e-9);
    }
}
