//! Tests of how proxies are run through one scenario.

use super::*;

/// Ten dynos of 10 ms and twenty clients, for a second.
pub(crate) fn scenario() -> Scenario {
    Scenario {
        dynos: 10,
        first_port: 0,
        pacing: Pacing::Closed(20),
        think: None,
        service: Service::Fixed(Duration::from_millis(10)),
        plain: false,
        seed: 1,
        warmup: Duration::ZERO,
        duration: Duration::from_secs(1),
        requests: 1_000,
        timeout: Duration::from_secs(10),
        patience: Duration::from_secs(1),
        host: "bench.test".to_owned(),
        path: "/".to_owned(),
        behaviour: Behaviour::default(),
        place: Place::Here,
        tls: None,
        http2: None,
        connections: 100,
        generator_threads: 1,
        threads: 1,
        rounds: 1,
        interrupt: Arc::new(AtomicBool::new(false)),
    }
}

#[test]
fn each_proxy_has_each_round_once_in_every_order() {
    assert_eq!(Order::Turn.schedule(2, 2, 1), [(0, 1), (0, 2), (1, 1), (1, 2)]);
    let rotated = [(0, 1), (1, 1), (2, 1), (1, 2), (2, 2), (0, 2)];
    assert_eq!(Order::Interleaved.schedule(3, 2, 1), rotated);
    let mut drawn = Order::Random.schedule(5, 4, 1);
    assert_eq!(drawn, Order::Random.schedule(5, 4, 1));
    assert_ne!(drawn, Order::Random.schedule(5, 4, 2));
    drawn.sort_unstable();
    let every: Vec<_> = (0..5).flat_map(|place| (1..=4).map(move |round| (place, round))).collect();
    assert_eq!(drawn, every);
}
