//! One line of the audit trail: its fields, how it is sealed with its hash, and how the seal is checked.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{AuditError, Ended, LINE_MAX};
use crate::durable::sha256;

/// What stands for the line before the first one.
pub const FIRST: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What comes before the hash at the end of a line, and after it.
const BEFORE_HASH: &[u8] = br#","hash":""#;
const AFTER_HASH: &[u8] = br#""}"#;

/// A line as it is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Line {
    /// Its number: one more than that of the line before it.
    pub seq: u64,
    /// When it was written, as the clock of the machine had it. The numbers give the order, not the times: clocks are
    /// set back now and then.
    pub time: String,
    /// The number of the line that this change began with, if this line is its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<u64>,
    /// Who asked for the change; stands in the line that it began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// The address they came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The verb.
    pub what: String,
    /// The app it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// What was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// What was to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
    /// How the change came out, if this line is its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Ended>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The hash of the line before it.
    pub prev: String,
    /// Its own hash.
    pub hash: String,
}

/// A place in the trail: the hash stands for everything up to that line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The number of the line.
    pub seq: u64,
    /// When it was written.
    pub time: String,
    /// Its hash.
    pub hash: String,
}

/// What the next line is tied to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) seq: u64,
    pub(super) hash: String,
}

/// A line without its hash, in the order in which it is written.
#[derive(Debug, Default, Serialize)]
pub(super) struct Draft<'a> {
    pub(super) seq: u64,
    pub(super) time: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) of: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) who: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) from: Option<&'a str>,
    pub(super) what: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) app: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) before: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) after: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) outcome: Option<Ended>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cause: Option<&'a str>,
    pub(super) prev: &'a str,
}

/// What ties a line to the one before it.
#[derive(Debug, Deserialize)]
pub(super) struct Ties {
    pub(super) seq: u64,
    pub(super) time: String,
    pub(super) prev: String,
}

impl Link {
    /// Before the first line.
    pub(super) fn before_all() -> Self {
        Self { seq: 0, hash: FIRST.to_owned() }
    }
}

impl Draft<'_> {
    /// The whole line with its newline, and its hash.
    pub(super) fn seal(&self) -> Result<(Vec<u8>, String), AuditError> {
        // Texts, numbers and values of JSON itself: none of them can be refused.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        let hash = sha256(&line);
        line.pop();
        line.extend_from_slice(BEFORE_HASH);
        line.extend_from_slice(hash.as_bytes());
        line.extend_from_slice(AFTER_HASH);
        line.push(b'\n');
        if line.len() > LINE_MAX {
            return Err(AuditError::TooLong(line.len()));
        }
        Ok((line, hash))
    }
}

/// What ties a line to the one before it, and its hash, if the hash is right. `line` is without its newline.
///
/// # Errors
/// What is wrong with it.
pub(super) fn unseal(line: &[u8]) -> Result<(Ties, String), &'static str> {
    const NO_LINE: &str = "this is no line of an audit trail";
    let end = line.len().checked_sub(AFTER_HASH.len()).ok_or(NO_LINE)?;
    let hash = end.checked_sub(FIRST.len()).ok_or(NO_LINE)?;
    let body = hash.checked_sub(BEFORE_HASH.len()).ok_or(NO_LINE)?;
    if &line[body..hash] != BEFORE_HASH || &line[end..] != AFTER_HASH {
        return Err(NO_LINE);
    }
    let whole = [&line[..body], b"}"].concat();
    let found = sha256(&whole);
    if found.as_bytes() != &line[hash..end] {
        return Err("its hash is not that of its bytes: it was changed");
    }
    let ties: Ties = serde_json::from_slice(&whole).map_err(|_| NO_LINE)?;
    Ok((ties, found))
}
