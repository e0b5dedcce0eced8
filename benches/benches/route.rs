//! What step 2 costs with a million hosts: exact, wildcard, by path prefix, and for a host that nobody has.
//!
//! Each look-up is of another host, drawn in an order that defeats the caches of the CPU: a table of a million
//! names does not fit them, and the requests of a real front door do not come for one host.

use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use router_core::policy::route::RouteTable;

const HOSTS: u32 = 1_000_000;
const LOOKUPS: u32 = 4096;

/// Every tenth name is a wildcard, every tenth has three path prefixes; the rest are plain.
fn table() -> RouteTable<u32> {
    let mut table = RouteTable::default();
    let mut add = |pattern: String, target| {
        let before = table.add(&pattern, target).expect("these are patterns");
        assert!(before.is_none(), "{pattern} is there once");
    };
    for number in 0..HOSTS {
        let name = format!("app-{number}.example.test");
        match number % 10 {
            0 => add(format!("*.{name}"), number),
            1 => {
                for prefix in ["", "/api", "/api/v2", "/static"] {
                    add(format!("{name}{prefix}"), number);
                }
            }
            _ => add(name, number),
        }
    }
    table
}

/// Host names all over the table, made from numbers that end in `digit`.
fn hosts(digit: u32, form: impl Fn(u32) -> String) -> Vec<String> {
    let scattered = |i: u32| i.wrapping_mul(2_654_435_761) % (HOSTS / 10) * 10 + digit;
    (0..LOOKUPS).map(|i| form(scattered(i))).collect()
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(40)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1500))
        .configure_from_args();
    let table = table();
    let mut group = criterion.benchmark_group("route, 1 M hosts");
    let mut look_up = |name: &str, hosts: Vec<String>, path: &str, found: bool| {
        for host in &hosts {
            assert_eq!(table.find(host, path).expect("this is a host").is_some(), found, "{host}{path}");
        }
        let mut next = hosts.iter().cycle();
        group.bench_function(name, |b| {
            b.iter(|| table.find(black_box(next.next().map_or("", String::as_str)), black_box(path)));
        });
    };
    let plain = |n: u32| format!("app-{n}.example.test");
    look_up("exact", hosts(5, plain), "/", true);
    look_up("exact, in capitals with a port", hosts(5, |n| format!("App-{n}.Example.Test:8080")), "/", true);
    look_up("wildcard", hosts(0, |n| format!("eu.www.app-{n}.example.test")), "/", true);
    look_up("path prefix, the longest of three", hosts(1, plain), "/api/v2/orders/17?page=2", true);
    look_up("path prefix, none of three", hosts(1, plain), "/basket/17/items", true);
    look_up("miss", hosts(5, |n| format!("app-{n}.example.org")), "/", false);
    group.finish();
    criterion.final_summary();
}
