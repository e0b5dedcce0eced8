//! Points in time as logs write them, in nanoseconds since the Unix epoch.

use time::OffsetDateTime;
use time::format_description::FormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

/// `10/Oct/2000:13:55:36 -0700`
const CLF: &[FormatItem<'_>] = format_description!(
    "[day]/[month repr:short]/[year]:[hour]:[minute]:[second] [offset_hour sign:mandatory][offset_minute]"
);

/// `2026-11-22T17:13:36.123Z`, with any offset; its colon may be missing, as journald writes it.
pub(super) fn rfc3339(text: &str) -> Option<u64> {
    let plain = OffsetDateTime::parse(text, &Rfc3339).ok();
    let time = plain.or_else(|| {
        let (front, minutes) = text.split_at_checked(text.len().checked_sub(2)?)?;
        let sign = front.as_bytes().get(front.len().checked_sub(3)?)?;
        let colon = matches!(sign, b'+' | b'-').then(|| format!("{front}:{minutes}"))?;
        OffsetDateTime::parse(&colon, &Rfc3339).ok()
    })?;
    since_epoch(time)
}

/// The time in the brackets of the Common Log Format.
pub(super) fn clf(text: &str) -> Option<u64> {
    since_epoch(OffsetDateTime::parse(text, CLF).ok()?)
}

/// `1700000000.123456`: seconds since the epoch, from 2001 to 2286, as journald's `short-unix` writes them.
pub(super) fn seconds(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() != 10 || part.len() > 9 || !digits(whole) || !digits(part) {
        return None;
    }
    let nanos: u64 = format!("{part:0<9}").parse().ok()?;
    Some(whole.parse::<u64>().ok()? * 1_000_000_000 + nanos)
}

/// The first time in what stands before a line.
pub(super) fn within(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().find_map(|word| rfc3339(word).or_else(|| seconds(word)))
}

fn since_epoch(time: OffsetDateTime) -> Option<u64> {
    u64::try_from(time.unix_timestamp_nanos()).ok()
}
