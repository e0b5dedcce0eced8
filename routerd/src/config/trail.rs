//! Where changes are recorded, kept and told: the checked tables `[audit]`, `[state]` and `[[webhooks]]`.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use http::Uri;
use toml::Spanned;

use super::check::Checker;
use super::error::Problem;
use super::event::{EventKind, EventPattern};
use super::file;
use super::key::Key;
use super::units::Size;
use super::walk::clip;

/// A secret may have this many bytes.
const SECRET_MAX: usize = 4096;
/// A URL may have this many bytes.
const URL_MAX: usize = 2048;

/// Where changes are written down. The keys are described in [`file::Audit`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is the key of the same name, described there")]
#[non_exhaustive]
pub struct Audit {
    pub file: PathBuf,
    /// In bytes.
    pub max_size: u64,
    pub files: u32,
}

/// Where the state is kept over a restart. The keys are described in [`file::State`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is the key of the same name, described there")]
#[non_exhaustive]
pub struct State {
    pub file: PathBuf,
}

/// Somebody who is told of events. The keys are described in [`file::Webhook`].
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Webhook {
    /// Where to: `http` or `https`, with a host.
    pub url: Uri,
    /// What signs, as it was in the file or the environment when the configuration was loaded.
    pub secret: Option<Secret>,
    /// Which events; at least one.
    pub events: Vec<EventPattern>,
}

/// Bytes that are never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Audit {
    /// What the keys of `[audit]` are when they are not written.
    pub const MAX_SIZE: u64 = 64 << 20;
    /// The same for the number of older files.
    pub const FILES: u32 = 10;
}

impl Webhook {
    /// Whether it is told of that event.
    pub fn wants(&self, event: EventKind) -> bool {
        self.events.iter().any(|pattern| pattern.matches(event))
    }

    /// The URL as far as it may be shown: without path and query.
    pub fn place(&self) -> String {
        let authority = self.url.authority().map_or("", |authority| authority.as_str());
        format!("{}://{authority}", self.url.scheme_str().unwrap_or_default())
    }
}

impl Secret {
    /// The bytes themselves.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// As a plan shows it: the place and the events.
impl fmt::Display for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let events: Vec<_> = self.events.iter().map(ToString::to_string).collect();
        write!(f, "{} ({})", self.place(), events.join(", "))
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signed = self.secret.is_some();
        f.debug_struct("Webhook")
            .field("place", &self.place())
            .field("signed", &signed)
            .finish_non_exhaustive()
    }
}

impl Checker<'_> {
    /// The three tables; `base` is the folder that relative paths begin at.
    pub(super) fn trail(
        &mut self,
        file: &file::File,
        base: &Path,
    ) -> (Option<Audit>, Option<State>, Vec<Webhook>) {
        let audit = file.audit.as_ref().map(|audit| Audit {
            file: self.path("audit.file", &audit.file, "routerd-audit.jsonl", base),
            max_size: audit.max_size.or(Size(Audit::MAX_SIZE)).0,
            files: audit.files.or(Audit::FILES),
        });
        let state = file
            .state
            .as_ref()
            .map(|state| State { file: self.path("state.file", &state.file, "routerd-state.json", base) });
        if let (Some(audit), Some(state)) = (&audit, &state)
            && audit.file == state.file
            && let Some(span) = file.state.as_ref().and_then(|state| state.file.span())
        {
            let problem = Problem::new(span, "state.file and audit.file are the same file");
            self.problem(problem.help("give each a file of its own"));
        }
        let webhooks = file.webhooks.iter().map(|webhook| self.webhook(webhook, base)).collect();
        (audit, state, webhooks)
    }

    fn path(&mut self, name: &str, key: &Key<String>, default: &str, base: &Path) -> PathBuf {
        let written = key.value().map_or(default, String::as_str);
        if let Some(span) = key.span()
            && Path::new(written).file_name().is_none()
        {
            let problem = Problem::new(span, format!("{name}: this is no path of a file"));
            self.problem(problem.found(format!("found \"{}\"", clip(written))));
        }
        base.join(written)
    }

    fn webhook(&mut self, written: &Spanned<file::Webhook>, base: &Path) -> Webhook {
        let file = written.get_ref();
        let url = match (file.url.value(), file.url.span()) {
            (Some(url), Some(span)) => url_of(url).unwrap_or_else(|why| {
                let problem = Problem::new(span, format!("webhooks.url: {why}"));
                self.problem(problem.help(r#"allowed: a URL such as "https://chat.test/hooks/deploys""#));
                Uri::default()
            }),
            _ => {
                if self.is_whole() {
                    self.problem(Problem::new(written.span(), "webhooks: url is missing"));
                }
                Uri::default()
            }
        };
        let mut events = Vec::new();
        for text in file.events.value().into_iter().flatten() {
            match EventPattern::parse(text.as_str()) {
                Ok(pattern) => events.push(pattern),
                Err(why) => {
                    let problem = Problem::new(text.span(), format!("webhooks.events: {why}"));
                    let names: Vec<_> = EventKind::ALL.iter().map(|event| event.as_str()).collect();
                    let allowed = format!("allowed: \"*\", \"deploy.*\" and the like, {}", names.join(", "));
                    self.problem(problem.found(format!("found \"{}\"", clip(text.as_str()))).help(allowed));
                }
            }
        }
        if file.events.value().is_none() {
            events.push(EventPattern::any());
        }
        Webhook { url, secret: self.secret(file, base), events }
    }

    fn secret(&mut self, file: &file::Webhook, base: &Path) -> Option<Secret> {
        let mut wrong = |span: Range<usize>, what: String| {
            self.problem(Problem::new(span, what).found("named here"));
            None
        };
        let (bytes, span, from) = match (file.secret_file.value(), file.secret_env.value()) {
            (None, None) => return None,
            (Some(_), Some(_)) => {
                let span = file.secret_env.span()?;
                return wrong(span, "webhooks: secret_file and secret_env; one of them is enough".to_owned());
            }
            (Some(path), None) => (read_secret(&base.join(path)), file.secret_file.span()?, "secret_file"),
            (None, Some(name)) => (secret_of_env(name), file.secret_env.span()?, "secret_env"),
        };
        match bytes.and_then(usable) {
            Ok(secret) => Some(secret),
            Err(why) => wrong(span, format!("webhooks.{from}: {why}")),
        }
    }
}

/// Says nothing of what was written: it may be a secret.
fn url_of(text: &str) -> Result<Uri, &'static str> {
    if text.len() > URL_MAX {
        return Err("this is longer than 2048 bytes");
    }
    if text.contains('#') {
        return Err("a # and what follows it are never sent: leave them out");
    }
    let url: Uri = text.parse().map_err(|_| "this is no URL")?;
    if !matches!(url.scheme_str(), Some("http" | "https")) {
        return Err("it must begin with http:// or https://");
    }
    let authority = url.authority().ok_or("it names no host")?;
    if authority.host().is_empty() {
        return Err("it names no host");
    }
    if authority.as_str().contains('@') {
        return Err("a user and a password in front of the host are not sent");
    }
    if authority.port().is_some() && authority.port_u16().is_none_or(|port| port == 0) {
        return Err("a port is a number from 1 to 65535");
    }
    Ok(url)
}

pub(super) fn read_secret(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("the file {} cannot be read: {error}", path.display());
    // A pipe or a device could keep us waiting for ever.
    if !path.metadata().map_err(failed)?.is_file() {
        return Err(format!("{} is no regular file", path.display()));
    }
    let mut bytes = Vec::new();
    // The newline at its end is beyond the bound.
    let most = SECRET_MAX as u64 + 3;
    File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes)).map_err(failed)?;
    Ok(bytes)
}

fn secret_of_env(name: &str) -> Result<Vec<u8>, String> {
    // What std refuses to look for cannot be there.
    let legal = !name.is_empty() && !name.contains(['=', '\0']);
    let value = legal.then(|| std::env::var_os(name)).flatten();
    // Its name is not repeated: somebody may have written the secret itself.
    value.map(OsStringExt::into_vec).ok_or_else(|| "the environment has no such variable".to_owned())
}

pub(super) fn usable(mut bytes: Vec<u8>) -> Result<Secret, String> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    match bytes.len() {
        0 => Err("the secret is empty".to_owned()),
        1..=SECRET_MAX => Ok(Secret(bytes)),
        _ => Err(format!("the secret has more than {SECRET_MAX} bytes")),
    }
}
