//! Step 7: one line in the access log for each request, written by one thread beside the path of requests.
//!
//! A request hands its closed [`Record`](router_core::proxy::Record) to [`AccessLog::write`], which makes its line
//! (`log/line.rs`), puts it into a bounded queue and returns: no lock, no wait, and a system call only when the writer
//! had fallen asleep. The writer writes many lines with one call (`log/writer.rs`). When the output cannot keep up,
//! lines are lost and counted; requests never wait for the log.
//!
//! Deliberately absent: time stamps in logfmt lines (journald, docker and every log collector stamp a line when it
//! arrives, as for Heroku's router; the JSON form has `time`, as it is what people load into other tools), rotation
//! (the log goes to standard output), and sampling (invariant 10: each request leaves one record).

mod line;
mod writer;

pub use line::{Format, LINE_MAX, format_line};
pub use writer::{AccessLog, DEFAULT_CAPACITY};
