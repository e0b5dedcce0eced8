//! A scenario that proxies are run through.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use router_bench::compare::Scenario;
use router_bench::dyno::{Behaviour, Place};
use router_bench::engine::Pacing;
use router_bench::service::Service;

/// Eight dynos of 10 ms, sixteen clients, 800 requests after a short warm-up.
pub(crate) fn scenario() -> Scenario {
    Scenario {
        dynos: 8,
        first_port: 0,
        pacing: Pacing::Closed(16),
        think: None,
        service: Service::Fixed(Duration::from_millis(10)),
        plain: false,
        seed: 1,
        warmup: Duration::from_millis(200),
        duration: Duration::from_secs(20),
        requests: 800,
        timeout: Duration::from_secs(20),
        patience: Duration::from_secs(1),
        host: "bench.test".to_owned(),
        path: "/".to_owned(),
        behaviour: Behaviour::default(),
        place: Place::Here,
        tls: None,
        http2: None,
        connections: 1_000,
        generator_threads: 1,
        threads: 2,
        rounds: 1,
        interrupt: Arc::new(AtomicBool::new(false)),
    }
}
