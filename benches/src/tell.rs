//! Words to whoever runs the program: on standard error, or nowhere if nobody reads that any more.

/// Writes a line to standard error, as `eprintln!` does, which panics when that is closed (`2>&1 | head`).
///
/// # Example
/// ```
/// router_bench::tell!("warning: {} of {} lines could not be read", 2, 100);
/// ```
#[macro_export]
macro_rules! tell {
    ($($words:tt)*) => {{
        // Nobody is left to be told of a failure.
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{}\n", format_args!($($words)*)));
    }};
}
