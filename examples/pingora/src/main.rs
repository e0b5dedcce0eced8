//! A Pingora proxy in front of dynos that do one request at a time.

fn main() {}
