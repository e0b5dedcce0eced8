//! Which answers of an app are compressed, and how.

use std::fmt;

/// Which answers of an app are compressed, and how. The keys are described in [`super::file::App`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compression {
    /// `compression`, the one that is liked best first; empty: none is compressed.
    pub codings: Vec<Coding>,
    /// `compression_min`, in bytes.
    pub min: u64,
    /// `compression_types`
    pub kinds: Vec<Kind>,
}

/// A content coding (RFC 9110 section 8.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coding {
    /// Zstandard (RFC 8878).
    Zstd,
    /// Brotli (RFC 7932).
    Br,
    /// gzip (RFC 1952).
    Gzip,
}

/// Media types: one, all of a type, or all with an ending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind(String);

impl Compression {
    /// The codings in their order, if there are some.
    pub(super) fn shown(&self) -> Option<String> {
        let names: Vec<_> = self.codings.iter().map(|coding| coding.as_str()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }
}

impl Coding {
    /// What may be written, for messages.
    pub const ALLOWED: &'static str = r#""zstd", "br" and "gzip""#;

    /// The coding of that name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Zstd, Self::Br, Self::Gzip].into_iter().find(|coding| coding.as_str() == text)
    }

    /// As it stands in headers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Br => "br",
            Self::Gzip => "gzip",
        }
    }
}

impl Kind {
    /// What may be written, for messages.
    pub const ALLOWED: &'static str = r#""text/html", "text/*" or "+json""#;

    /// Those that are compressed unless others are named.
    pub const DEFAULT: [&'static str; 14] = [
        "text/*",
        "+json",
        "+xml",
        "application/javascript",
        "application/json",
        "application/wasm",
        "application/x-javascript",
        "application/x-ndjson",
        "application/xml",
        "font/otf",
        "font/ttf",
        "image/bmp",
        "image/vnd.microsoft.icon",
        "image/x-icon",
    ];

    /// Reads `type/subtype`, `type/*` or `+ending`.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let sign = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
        let name = |text: &str| !text.is_empty() && text.bytes().all(sign);
        let good = match (text.split_once('/'), text.strip_prefix('+')) {
            (Some((kind, "*")), _) => name(kind),
            (Some((kind, rest)), _) => name(kind) && name(rest),
            (None, ending) => ending.is_some_and(name),
        };
        let text = text.to_ascii_lowercase();
        match good {
            _ if text.len() > 200 => Err("this is longer than 200 bytes"),
            true if is_stream(&text) => Err("answers of this kind are streams and are never compressed"),
            true => Ok(Self(text)),
            false => Err("this is no media type"),
        }
    }

    /// Whether a media type, in lower case and without parameters, is one of them.
    pub fn has(&self, kind: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(begins) => kind.starts_with(begins),
            None if self.0.starts_with('+') => kind.ends_with(&self.0),
            None => kind == self.0,
        }
    }
}

/// Whether a media type, in lower case, is one of those that say how what they hold is to be flushed or compressed
/// themselves.
pub(crate) fn is_stream(kind: &str) -> bool {
    kind == "text/event-stream" || kind.starts_with("application/grpc")
}

impl Default for Compression {
    fn default() -> Self {
        let kinds = Kind::DEFAULT.iter().map(|kind| Kind((*kind).to_owned())).collect();
        Self { codings: Vec::new(), min: 1 << 10, kinds }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_by_default_can_be_written() {
        for kind in &Compression::default().kinds {
            assert_eq!(Kind::parse(&kind.to_string()).as_ref(), Ok(kind));
        }
    }

    #[test]
    fn a_kind_is_one_type_all_of_a_type_or_all_with_an_ending() {
        for (written, yes, no) in [
            ("text/*", &["text/html", "text/x"][..], &["textual/html", "application/text", "text"][..]),
            ("Text/HTML", &["text/html"], &["text/htmlx", "text/xhtml", "x-text/html"]),
            ("+json", &["application/ld+json"], &["application/json", "text/json", "application/ld+jsonx"]),
        ] {
            let kind = Kind::parse(written).unwrap();
            assert!(yes.iter().all(|yes| kind.has(yes)), "{written}");
            assert!(!no.iter().any(|no| kind.has(no)), "{written}");
        }
        for wrong in
            ["", "*", "*/*", "/", "text", "text/", "/html", "text/html; charset=utf-8", "+", "a/b/c", "te*/a"]
        {
            assert_eq!(Kind::parse(wrong), Err("this is no media type"), "{wrong}");
        }
        for stream in ["text/event-stream", "application/grpc", "Application/gRPC+proto"] {
            assert!(Kind::parse(stream).is_err_and(|why| why.contains("streams")), "{stream}");
        }
    }
}
