//! Benchmarks and the load generator of the project.
