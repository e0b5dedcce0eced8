use super::*;
use crate::logs::{self, Wanted};
use crate::service::exponential;

/// A log of a load that is known: Poisson arrivals at `load` erlangs, exponential service times of 10 ms.
fn log(load: f64, count: usize) -> Log {
    let mut rng = fastrand::Rng::with_seed(5);
    let (mut now, mut text) = (1_700_000_000.0, String::new());
    for _ in 0..count {
        now += exponential(&mut rng) * 0.01 / load;
        let service = exponential(&mut rng) * 10.0;
        let stamp = std::time::UNIX_EPOCH + std::time::Duration::from_secs_f64(now);
        let time = humantime::format_rfc3339_nanos(stamp);
        text += &format!(
            "{{\"time\":\"{time}\",\"method\":\"GET\",\"status\":200,\"service_ms\":{service:.3}}}\n"
        );
    }
    logs::read(text.as_bytes(), &Wanted::default()).unwrap()
}

fn ask(log: &Log, target: &str) -> Advice {
    advise(log, &Question { target: target.parse().unwrap(), dynos: Some(11), ..Question::default() })
        .unwrap()
}

#[test]
fn a_known_load_needs_what_erlang_says() {
    // Erlang C, mean waits: 8 erlangs 2.05 ms with 10 dynos and 0.82 with 11; 16 erlangs 2.66 ms with 18, 1.25 with 19
    // and 0.64 with 20. Of 8 erlangs 41 % wait with 10 dynos and 24 % with 11. 80,000 requests give this to a few %.
    let log = log(8.0, 80_000);
    let jobs = replay::jobs(&log, None, 1).unwrap();
    let dynos = |target: &str| {
        let question = Question { target: target.parse().unwrap(), ..Question::default() };
        GROWTH.map(|times| Need::one_line(&jobs, times, &question).dynos)
    };
    let mean = dynos("mean wait < 1.3ms");
    assert_eq!(mean[0], Some(11), "{mean:?}");
    assert!((19..=20).contains(&mean[3].unwrap()), "{mean:?}");
    assert!(mean.is_sorted(), "{mean:?}");
    let queued = dynos("queued < 33%");
    assert_eq!(queued[0], Some(11), "{queued:?}");
}

#[test]
fn random_routing_needs_many_times_as_many() {
    let advice = ask(&log(8.0, 20_000), "mean wait < 0.5ms");
    let now = &advice.growth[0];
    // M/M/1 for each dyno: Wq = rho/(1-rho) S, so 0.05 S needs rho = 0.048, which is 168 dynos.
    let random = now.random.dynos.unwrap();
    assert!((140..=200).contains(&random), "{random}");
    let [few, many] = now.random_range.unwrap();
    assert!(few <= random && random <= many, "{few} {random} {many}");
    assert!(now.one_line.dynos.unwrap() <= 13, "{now:?}");
    let today = advice.today.unwrap();
    assert!(today.random.wait_mean_ms > 5.0 * today.one_line.wait_mean_ms, "{today:?}");
    assert!((today.one_line.busy_share - 8.0 / 11.0).abs() < 0.02, "{today:?}");
}

#[test]
fn what_no_number_of_dynos_gives_is_said() {
    let log = log(2.0, 2_000);
    let advice = ask(&log, "p99 latency < 5ms");
    for row in &advice.growth {
        assert_eq!((row.one_line.dynos, row.random.dynos), (None, None));
        assert!(row.one_line.why.as_ref().unwrap().contains("not with any number of dynos"), "{row:?}");
    }
    // A limit below everything: nobody may wait at all, which the ideal line can give and random routing can not.
    let advice = ask(&log, "p99.99 wait < 1us");
    assert!(advice.growth[0].one_line.dynos.is_some());
    assert!(advice.warnings.iter().any(|warning| warning.contains("longer log")), "{:?}", advice.warnings);
}

#[test]
fn what_a_log_has_is_told_in_figures() {
    // Requests of 1 s and 3 s in turn.
    let line = |(number, ms): (u64, u64)| {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(ms);
        let (time, service) = (humantime::format_rfc3339_millis(time), 1_000 + number % 2 * 2_000);
        format!("{{\"time\":\"{time}\",\"method\":\"GET\",\"status\":200,\"service_ms\":{service}}}\n")
    };
    let read = |text: &str| logs::read(text.as_bytes(), &Wanted::default()).unwrap();
    let changes = |advice: &Advice| advice.warnings.iter().any(|warning| warning.contains("load changes"));
    let calm: String = (0..10).map(|n| (n, n * 1_000)).map(line).collect();
    let advice = ask(&read(&calm), "mean wait < 1us");
    assert_eq!((advice.requests, advice.seconds, advice.service_mean_ms), (10, 9.0, 2_000.0), "{advice:?}");
    // 20 s of work in 9 s and a service time until the last is done.
    assert!(
        (advice.load - 20.0 / 11.0).abs() < 1e-9 && (advice.service_scv - 0.25).abs() < 1e-9,
        "{advice:?}"
    );
    assert!(!changes(&advice), "{advice:?}");
    // The second half comes ten times as fast.
    let rush = (10..20).map(|n| (n, 10_000 + (n - 10) * 100)).map(line);
    let advice = ask(&read(&rush.fold(calm, |log, line| log + &line)), "mean wait < 1us");
    assert!(changes(&advice), "{advice:?}");
    assert_eq!(advice.halves.each_ref().map(|half| half.dynos), [Some(2), Some(10)], "{advice:?}");
}

#[test]
fn one_request_is_a_load_too() {
    let advice = ask(&log(1.0, 1), "p99 wait < 1ms");
    assert_eq!(advice.growth[0].one_line.dynos, Some(1));
    assert_eq!(advice.growth[0].random.dynos, Some(1));
    assert!(advice.load.is_finite() && advice.service_scv == 0.0, "{advice:?}");
}

#[test]
fn the_fewest_are_found_and_the_search_ends() {
    for (from, most, need) in
        [(1, 1, 1), (1, 100, 1), (1, 100, 2), (3, 100, 77), (1, 100, 100), (50, 100, 60)]
    {
        let mut asked = 0;
        let found = search(from, most, |dynos| {
            asked += 1;
            dynos >= need
        });
        assert_eq!(found, Some(need));
        // Doubling and halving: twice the digits of the range, and no number twice.
        assert!(
            asked <= 2 * (most - from).checked_ilog2().map_or(1, |digits| digits + 1),
            "{from} {need} {asked}"
        );
    }
    assert_eq!(search(1, 100, |_| false), None);
}

#[test]
fn requests_without_service_times_get_those_of_others() {
    let line = |at: &str| {
        let rest = "\"method\":\"GET\",\"queue_ms\":1,\"service_ms\":70,\"status\":200";
        format!("{{\"time\":\"2026-01-01T00:00:0{at}Z\",{rest}}}\n")
    };
    let refused = "{\"time\":\"2026-01-01T00:00:02Z\",\"code\":\"H11\",\"method\":\"GET\",\"queue_ms\":0,\
                   \"service_ms\":null,\"status\":503}\n";
    let cut = "{\"time\":\"2026-01-01T00:00:03Z\",\"code\":\"H12\",\"method\":\"GET\",\"queue_ms\":0,\
               \"service_ms\":30000,\"status\":503}\n";
    let log = logs::read([&line("1"), refused, cut].concat().as_bytes(), &Wanted::default()).unwrap();
    let question = Question::default();
    let jobs = replay::jobs(&log, None, 1).unwrap();
    assert_eq!(jobs.iter().map(|job| job.service / 1_000_000).collect::<Vec<_>>(), [70, 70, 30_000]);
    let advice = advise(&log, &question).unwrap();
    assert_eq!((advice.drawn, advice.cut, advice.today.is_none()), (1, 1, true));
    assert!(advice.warnings.iter().any(|warning| warning.contains("H12")), "{:?}", advice.warnings);
    assert!(replay::jobs(&log, Some(&"exp:1s".parse().unwrap()), 1).unwrap_err().contains("of its own"));
    // They are drawn from all that were served.
    let faster = line("4").replace("70", "7");
    let log = [&line("1"), &faster, &refused.repeat(50)[..]].concat();
    let log = logs::read(log.as_bytes(), &Wanted::default()).unwrap();
    let jobs = replay::jobs(&log, None, 1).unwrap();
    let slow = jobs.iter().filter(|job| job.service == 70_000_000).count();
    assert!((10..=40).contains(&slow) && jobs.len() == 52, "{slow}");
}

#[test]
fn the_peak_is_what_stands_at_once() {
    let job = |arrival, service| Job { arrival, service };
    assert_eq!(replay::peak(&[job(0, 10), job(5, 10), job(10, 1), job(30, 1)], 1.0), 2);
    assert_eq!(replay::peak(&[job(0, 10), job(5, 10), job(10, 1), job(30, 1)], 2.0), 3);
    assert_eq!(replay::peak(&[job(0, 0), job(0, 0)], 1.0), 1);
}

#[test]
fn of_several_replays_of_random_routing_the_one_in_the_middle_counts() {
    let log = log(4.0, 600);
    let jobs = replay::jobs(&log, None, 1).unwrap();
    let (target, mut moved) = ("p95 wait < 20ms", 0);
    for seed in 10..16 {
        let question =
            Question { target: target.parse().unwrap(), dynos: Some(8), seed, ..Question::default() };
        let advice = advise(&log, &question).unwrap();
        // Today: by the mean wait.
        let figures = (0..5).map(|lot| replay::random(&jobs, 1.0, 8, seed + lot).figures());
        let figures: Vec<Figures> = figures.collect();
        let means: Vec<f64> = figures.iter().map(|figures| figures.wait_mean_ms).collect();
        let today = advice.today.as_ref().unwrap();
        assert_eq!(today.random.wait_mean_ms, median(&means), "{means:?}");
        assert!(figures.contains(&today.random) && !today.counted);
        // What is needed: by the number of dynos, and with the figures of that replay.
        for row in &advice.growth {
            let from = row.one_line.dynos.unwrap();
            let need = |seed| {
                let met = |dynos| question.target.met(replay::random(&jobs, row.times, dynos, seed));
                search(from, RANDOM_MOST, met).unwrap()
            };
            let mut needs: Vec<usize> = (0..5).map(|lot| need(seed + lot)).collect();
            let figures = row.random.figures.unwrap();
            assert!(figures.wait_p95_ms < 20.0, "{figures:?}: they meet the target");
            needs.sort_unstable();
            assert_eq!((row.random.dynos, row.random_range), (Some(needs[2]), Some([needs[0], needs[4]])));
        }
        moved += u32::from(means[2] != median(&means));
    }
    assert!(moved > 0, "of six seeds one draws the middle one elsewhere than in the middle");
}

/// The middle one of five.
fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[2]
}

/// A line of a log: when, in seconds of 2026, and what else.
fn line(at: u64, rest: &str) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_767_225_600 + at);
    format!("{{\"time\":\"{}\",\"method\":\"GET\",{rest}}}\n", humantime::format_rfc3339_seconds(time))
}

#[test]
fn what_speaks_against_the_answer_is_said_and_what_does_not_is_not() {
    let served = |at, host: &str| line(at, &format!("\"status\":200,\"service_ms\":1,\"host\":\"{host}\""));
    let said = |text: &str, wanted: &Wanted, target: &str, part: &str| {
        let log = logs::read(text.as_bytes(), wanted).unwrap();
        let all = ask(&log, target).warnings;
        all.iter().filter(|warning| warning.contains(part)).count()
    };
    let plain = Wanted::default();
    let log = |count: u64| (0..count).map(|at| served(at, "a.test")).collect::<String>();
    // 30 requests have to be beyond the percentile.
    assert_eq!(said(&log(299), &plain, "p90 wait < 1ms", "longer log"), 1);
    assert_eq!(said(&log(301), &plain, "p90 wait < 1ms", "longer log"), 0);
    assert_eq!(said(&log(2), &plain, "mean wait < 1ms", "longer log"), 0);
    // More than one line in a hundred.
    assert_eq!(said(&(log(100) + "x\n"), &plain, "mean wait < 1ms", "could not be read"), 0);
    assert_eq!(said(&(log(99) + "x\n"), &plain, "mean wait < 1ms", "could not be read"), 1);
    // Several hosts are no matter once one of them is asked for.
    let two = log(5) + &served(6, "b.test");
    assert_eq!(said(&two, &plain, "mean wait < 1ms", "2 hosts"), 1);
    assert_eq!(said(&log(5), &plain, "mean wait < 1ms", "hosts"), 0);
    let one = Wanted { host: Some("a.test".to_owned()), ..Wanted::default() };
    assert_eq!(said(&two, &one, "mean wait < 1ms", "hosts"), 0);
}

#[test]
fn halves_that_need_as_many_but_for_a_tenth_are_the_same_load() {
    // In each half as many at once as it needs, a second apart; then a pause.
    let log = |first: u64, second: u64| {
        let burst = |begin: u64, count: u64| {
            (0..count).map(|_| line(begin, "\"status\":200,\"service_ms\":500")).collect::<String>()
        };
        // The smaller half has the rest of its requests one by one.
        let most = first.max(second);
        let rest = |begin: u64, count: u64| (0..count).map(|n| burst(begin + 2 * n, 1)).collect::<String>();
        let text =
            burst(0, first) + &rest(10, most - first) + &burst(1_000, second) + &rest(1_010, most - second);
        logs::read(text.as_bytes(), &Wanted::default()).unwrap()
    };
    let changes = |first, second| {
        let advice = ask(&log(first, second), "p99.9 wait < 1ms");
        let needs = advice.halves.each_ref().map(|half| half.dynos.unwrap() as u64);
        assert_eq!(needs, [first, second]);
        advice.warnings.iter().any(|warning| warning.contains("load changes"))
    };
    assert!(changes(21, 19) && changes(19, 21));
    assert!(!changes(22, 20) && !changes(20, 22));
    // Of few dynos one more or less says nothing.
    assert!(!changes(3, 2) && !changes(3, 4));
}

#[test]
fn service_times_and_waits_of_the_log_are_told_in_its_own_units() {
    let text = (0..100).map(|n| {
        line(n, &format!("\"status\":200,\"queue_ms\":{},\"service_ms\":1,\"dyno\":\"d{}\"", n + 1, n % 3))
    });
    let log = logs::read(text.collect::<String>().as_bytes(), &Wanted::default()).unwrap();
    let question = Question { target: "mean wait < 1ms".parse().unwrap(), ..Question::default() };
    let today = advise(&log, &question).unwrap().today.unwrap();
    assert_eq!((today.dynos, today.counted, today.logged_wait_ms), (3, true, Some([50.5, 99.0])));
    // Service times that were given for all are none of the log's own that had to be drawn.
    let clf = "h - - [10/Oct/2000:13:55:36 -0700] \"GET / HTTP/1.1\" 200 1\n";
    let log = logs::read(clf.as_bytes(), &Wanted::default()).unwrap();
    let question = Question { service: Some("fixed:1s".parse().unwrap()), ..question };
    let advice = advise(&log, &question).unwrap();
    assert_eq!((advice.drawn, advice.service_mean_ms), (0, 1_000.0));
}
