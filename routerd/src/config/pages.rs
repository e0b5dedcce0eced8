//! An app's own pages for faults: which page is for which fault, and what is filled in.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};
use router_core::fault::Fault;
use router_core::proxy::Taste;
use serde::de::IgnoredAny;

use super::tls::read;

/// What happens before it is known which app a request is for, or when nobody is there to read a page.
const NEVER: [&str; 6] = ["H22", "H27", "H28", "M01", "M02", "M12"];

/// Pages for some faults. The keys are described in [`super::file::ErrorPage`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is the key of the same name, described there")]
#[non_exhaustive]
pub struct ErrorPage {
    pub on: Vec<On>,
    pub html: Option<Template>,
    pub json: Option<Template>,
}

/// Which faults; the later one is the more particular.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum On {
    /// All of them.
    Any,
    /// Those with a status in that hundred.
    Class(u16),
    /// Those with that status.
    Status(u16),
    /// Those with that code.
    Code(&'static str),
}

/// The text of a page, as it was when the configuration was read.
#[derive(Clone)]
pub struct Template {
    file: PathBuf,
    /// The beginning of its SHA-256, in hexadecimal: tells one text from the next.
    mark: String,
    parts: Arc<[Part]>,
}

#[derive(Clone, Debug)]
enum Part {
    Text(Bytes),
    Word(Word),
}

#[derive(Clone, Copy, Debug)]
enum Word {
    Code,
    Status,
    Desc,
    RequestId,
}

/// The page for a fault, if there is one: of those that fit the most particular one, and of these the first.
pub fn find(pages: &[ErrorPage], fault: Fault, taste: Taste) -> Option<&Template> {
    let fitting = pages.iter().filter_map(|page| {
        let template = page.of(taste)?;
        Some((page.on.iter().filter(|on| on.has(fault)).max()?, template))
    });
    // The first of equals: `max_by` takes the last one.
    fitting.rev().max_by_key(|(on, _)| *on).map(|(_, template)| template)
}

impl ErrorPage {
    fn of(&self, taste: Taste) -> Option<&Template> {
        match taste {
            Taste::Html => self.html.as_ref(),
            Taste::Json => self.json.as_ref(),
        }
    }
}

impl On {
    /// What may be written, for messages.
    pub const ALLOWED: &'static str = r#""H80" (a code of docs/faults.md), "503", "5xx", "4xx" or "*""#;

    /// Reads what is written.
    ///
    /// # Errors
    /// Why it is nothing that a page can be for.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if NEVER.contains(&text) {
            return Err("no app's page is ever shown for this");
        }
        let codes = || Fault::ALL.iter().map(|fault| fault.code());
        let statuses = || Fault::ALL.iter().filter(|fault| !NEVER.contains(&fault.code()));
        match text {
            "*" => Ok(Self::Any),
            "4xx" => Ok(Self::Class(4)),
            "5xx" => Ok(Self::Class(5)),
            _ => match (codes().find(|code| *code == text), number(text)) {
                (Some(code), _) => Ok(Self::Code(code)),
                (None, Some(status)) if statuses().any(|fault| fault.status() == status) => {
                    Ok(Self::Status(status))
                }
                (None, Some(_)) => Err("no fault has this status, and answers of dynos are left as they are"),
                (None, None) => Err("this is no fault"),
            },
        }
    }

    fn has(self, fault: Fault) -> bool {
        match self {
            Self::Any => true,
            Self::Class(class) => fault.status() / 100 == class,
            Self::Status(status) => fault.status() == status,
            Self::Code(code) => fault.code() == code,
        }
    }
}

impl Template {
    /// Reads a page from its file.
    ///
    /// # Errors
    /// Why the file cannot be read, or is no such page.
    pub fn load(file: PathBuf, taste: Taste) -> Result<Self, String> {
        let bytes = read(&file)?;
        let mark = HEXLOWER.encode(&digest(&SHA256, &bytes).as_ref()[..4]);
        let text = String::from_utf8(bytes).map_err(|_| "the file is no UTF-8 text".to_owned())?;
        let page = Self { file, mark, parts: parts(&text)?.into() };
        if taste == Taste::Json {
            let example = page.fill(Fault::Platform, "0").concat();
            serde_json::from_slice::<IgnoredAny>(&example)
                .map_err(|error| format!("this is no JSON: {error}"))?;
        }
        Ok(page)
    }

    /// The page for one request, in parts. The id has no character that means anything in HTML or JSON, and
    /// neither have the words of faults.
    pub fn fill(&self, fault: Fault, request_id: &str) -> Vec<Bytes> {
        let parts = self.parts.iter().map(|part| match part {
            Part::Text(text) => text.clone(),
            Part::Word(Word::Code) => Bytes::from_static(fault.code().as_bytes()),
            Part::Word(Word::Status) => fault.status().to_string().into(),
            Part::Word(Word::Desc) => fault.to_string().into(),
            Part::Word(Word::RequestId) => request_id.to_owned().into(),
        });
        parts.collect()
    }

    /// Where it was read from.
    pub fn file(&self) -> &Path {
        &self.file
    }
}

/// A text cut at the words in double braces.
fn parts(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    let mut plain = String::new();
    while let Some((before, after)) = rest.split_once("{{") {
        let inner = after.split_once("}}").filter(|(name, _)| is_word(name));
        let Some((name, behind)) = inner else {
            // Braces of something else, such as a script.
            plain.push_str(before);
            plain.push_str("{{");
            rest = after;
            continue;
        };
        let word = match name {
            "code" => Word::Code,
            "status" => Word::Status,
            "desc" => Word::Desc,
            "request_id" => Word::RequestId,
            _ => {
                return Err(format!(
                    "{{{{{name}}}}} means nothing here: there are code, status, desc and request_id"
                ));
            }
        };
        plain.push_str(before);
        parts.push(Part::Text(std::mem::take(&mut plain).into()));
        parts.push(Part::Word(word));
        rest = behind;
    }
    plain.push_str(rest);
    parts.push(Part::Text(plain.into()));
    Ok(parts)
}

/// A status as it is written: three digits.
fn number(text: &str) -> Option<u16> {
    let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

fn is_word(name: &str) -> bool {
    (1..=20).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

impl PartialEq for Template {
    fn eq(&self, other: &Self) -> bool {
        (&self.file, &self.mark) == (&other.file, &other.mark)
    }
}

impl Eq for Template {}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Template({self})")
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.file.display(), self.mark)
    }
}

impl fmt::Display for On {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Class(class) => write!(f, "{class}xx"),
            Self::Status(status) => status.fmt(f),
            Self::Code(code) => f.write_str(code),
        }
    }
}

impl fmt::Display for ErrorPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on: Vec<_> = self.on.iter().map(On::to_string).collect();
        f.write_str(&on.join(" "))?;
        [&self.html, &self.json].into_iter().flatten().try_for_each(|page| write!(f, ": {page}"))
    }
}

#[cfg(test)]
mod tests {
    use router_core::fault::Backlog;

    use super::*;

    fn template(text: &str) -> Result<Template, String> {
        Ok(Template { file: PathBuf::new(), mark: String::new(), parts: parts(text)?.into() })
    }

    fn page(on: &[&str], html: &str) -> ErrorPage {
        let on = on.iter().map(|on| On::parse(on).unwrap()).collect();
        ErrorPage { on, html: Some(template(html).unwrap()), json: None }
    }

    #[test]
    fn words_in_double_braces_are_filled_in_and_other_braces_stay() {
        let fill = |text: &str| {
            let page = template(text).unwrap().fill(Fault::Backlog(Backlog::MaxWait), "id-1");
            String::from_utf8(page.concat()).unwrap()
        };
        assert_eq!(
            fill("{{code}}{{status}} a {{desc}}, {{request_id}}"),
            "H11503 a Backlog too deep (max wait), id-1"
        );
        for same in
            ["", "a{{b", "}}", "{{}}", "{{ code }}", "{{{", "{{A}}", "f(){{x;}}", "{{", "\u{fc}{{\u{fc}}}"]
        {
            assert_eq!(fill(same), same);
        }
        assert_eq!(fill("{{{{code}}}}"), "{{H11}}");
        assert!(template("{{request-id}} {{id}}").unwrap_err().contains("{{id}} means nothing"));
    }

    #[test]
    fn the_most_particular_page_is_taken_and_of_equals_the_first() {
        let pages = [
            page(&["*"], "any"),
            page(&["5xx"], "first"),
            page(&["5xx", "429"], "class"),
            page(&["503"], "status"),
            page(&["H80", "4xx"], "code"),
        ];
        let found = |fault, taste| find(&pages, fault, taste).map(|page| page.fill(fault, "").concat());
        let html = |fault| found(fault, Taste::Html).map(|text| String::from_utf8(text).unwrap());
        assert_eq!(html(Fault::Maintenance).as_deref(), Some("code"));
        assert_eq!(html(Fault::NoDynos).as_deref(), Some("status"));
        assert_eq!(html(Fault::Forbidden).as_deref(), Some("code"));
        assert_eq!(find(&pages[..3], Fault::NoDynos, Taste::Html), Some(pages[1].html.as_ref().unwrap()));
        assert_eq!(find(&pages[..1], Fault::RateLimit, Taste::Html), Some(pages[0].html.as_ref().unwrap()));
        assert_eq!(found(Fault::NoDynos, Taste::Json), None);
    }

    #[test]
    fn a_page_is_for_what_the_router_says_itself() {
        for text in ["*", "4xx", "5xx", "503", "429", "H11", "M10"] {
            assert_eq!(On::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "H27", "M01", "M02", "2xx", "200", "500", "421", "h11", "H00", "+503", "all"] {
            assert!(On::parse(text).is_err(), "{text:?}");
        }
    }
}
