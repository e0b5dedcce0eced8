//! HTTP/2 in front: every key stands for itself.

use std::time::Duration;

use crate::config::Http2;
use crate::config::file;
use crate::config::key::Key;
use crate::config::units::{Period, Size};

pub(super) fn http2(file: &file::Http2) -> Http2 {
    let default = Http2::default();
    let period = |key: &Key<Period>, default: Duration| key.or(Period(default)).0;
    // Its ceiling is far below what does not fit.
    let window = |key: &Key<Size>, default: u32| {
        key.value().map_or(default, |size| u32::try_from(size.0).unwrap_or(u32::MAX >> 1))
    };
    Http2 {
        max_streams: file.max_streams.or(default.max_streams),
        max_reset_streams: file.max_reset_streams.or(default.max_reset_streams),
        stream_window: window(&file.stream_window, default.stream_window),
        connection_window: window(&file.connection_window, default.connection_window),
        ping_interval: period(&file.ping_interval, default.ping_interval),
        ping_timeout: period(&file.ping_timeout, default.ping_timeout),
        send_timeout: period(&file.send_timeout, default.send_timeout),
    }
}
