//! A run of the generator inside the test.

use std::time::Duration;

use router_bench::dyno::{Behaviour, Fleet, Place};
use router_bench::engine::{self, Pacing, Plan, Progress, Run};
use router_bench::load::Route;

/// A run without a proxy and without a warm-up: 2 ms for a request, and all have to be through in 20 s.
pub(crate) fn plan(place: &Place, dynos: u16, pacing: Pacing, requests: u64) -> Plan {
    let dynos = Fleet::at(place, (dynos, 0), Behaviour::default()).unwrap();
    Plan {
        route: Route::Direct(dynos.addresses().to_vec()),
        tls: None,
        http2: None,
        dynos,
        pacing,
        think: None,
        service: "fixed:2ms".parse().unwrap(),
        seed: 1,
        warmup: Duration::ZERO,
        duration: Duration::from_secs(20),
        requests,
        timeout: Duration::from_secs(10),
        host: "bench.test".to_owned(),
        path: "/".to_owned(),
        connections: 100,
        threads: 1,
    }
}

/// Runs it to its end.
pub(crate) fn run(plan: Plan) -> Run {
    engine::run(plan, &Progress::default(), || {}).unwrap()
}
