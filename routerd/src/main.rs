//! `routerd`, the daemon: see [`routerd`].

fn main() {}
