//! `dyno-bench`: measures what a proxy does to a fleet of one-at-a-time servers.

fn main() {}
