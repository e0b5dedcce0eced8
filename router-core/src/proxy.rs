//! The HTTP/1.1 client side: one request from its Host to the last byte of its answer.

mod record;

pub use record::Record;
