//! Tokens of the admin interface: what is kept of one, how one is made, and whether one that is shown is right.
//!
//! A token is 256 random bits, so nobody can guess one or look its hash up in a table. A plain SHA-256 of it is as good
//! as a slow password hash would be, and costs nothing at each request.

use std::fmt;
use std::time::Duration;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use ring::digest::{SHA256, digest};
use ring::error::Unspecified;
use ring::rand::{SecureRandom, SystemRandom};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::{Role, Scope};

/// What every token begins with, so that people and scanners know one when they see it.
const PREFIX: &str = "rtd_";
/// What the hash of a token begins with in the file.
const ALGORITHM: &str = "sha256:";
/// Bytes of chance in a token.
const CHANCE: usize = 32;

/// What is kept of a token, and what whoever shows it may ask.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// What the audit trail calls whoever shows it.
    pub name: String,
    /// Which token it is.
    pub hash: TokenHash,
    /// What may be asked.
    pub role: Role,
    /// Of which apps.
    pub apps: Scope,
    /// Until when it is good, since 1970; `None`: until it is taken out of the configuration.
    pub expires: Option<Duration>,
}

/// The SHA-256 of a token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// What may be written, for messages.
    pub const ALLOWED: &'static str = "what `routerd token` prints: \"sha256:\" and 64 hexadecimal digits";

    /// The hash of a token as it is shown.
    pub fn of(token: &str) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self(hash)
    }

    /// Reads a hash as it is written.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = HEXLOWER_PERMISSIVE.decode(text.strip_prefix(ALGORITHM)?.as_bytes()).ok()?;
        bytes.try_into().ok().map(Self)
    }

    /// The hash as it would be written.
    pub fn text(&self) -> String {
        format!("{ALGORITHM}{}", HEXLOWER.encode(&self.0))
    }

    /// Its beginning: tells one token from the next and gives nothing away.
    pub fn mark(&self) -> String {
        HEXLOWER.encode(&self.0[..4])
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}...", self.mark())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({self})")
    }
}

/// For people, without anything that is secret.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}; {}; apps {}", self.name, self.hash.mark(), self.role, self.apps)?;
        match self.expires {
            Some(at) => {
                write!(f, "; until {})", humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + at))
            }
            None => f.write_str(")"),
        }
    }
}

/// A new token.
///
/// # Errors
/// The system gives no random bits.
pub fn generate() -> Result<String, Unspecified> {
    let mut chance = [0; CHANCE];
    SystemRandom::new().fill(&mut chance)?;
    Ok(format!("{PREFIX}{}", HEXLOWER.encode(&chance)))
}

/// The token among them that is shown. How long it takes does not tell which it was, or how near a wrong one came.
pub fn find<'a>(tokens: &'a [Token], shown: &str) -> Option<&'a Token> {
    let hash = TokenHash::of(shown);
    let (mut hit, mut place) = (Choice::from(0), 0_u32);
    for (at, token) in (0_u32..).zip(tokens) {
        let same = token.hash.0.ct_eq(&hash.0);
        place.conditional_assign(&at, same);
        hit |= same;
    }
    tokens.get(place as usize).filter(|_| hit.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str, text: &str) -> Token {
        let hash = TokenHash::of(text);
        Token { name: name.to_owned(), hash, role: Role::Read, apps: Scope::All, expires: None }
    }

    #[test]
    fn a_token_is_found_among_others_and_a_wrong_one_is_not() {
        let tokens = [token("a", "one"), token("b", "two"), token("c", "three")];
        for (shown, name) in
            [("one", Some("a")), ("two", Some("b")), ("three", Some("c")), ("tw", None), ("", None)]
        {
            assert_eq!(find(&tokens, shown).map(|token| token.name.as_str()), name);
        }
        assert!(find(&[], "one").is_none());
    }

    #[test]
    fn each_token_is_new_and_its_hash_is_read_as_written() {
        let (one, two) = (generate().unwrap(), generate().unwrap());
        assert!(one.starts_with("rtd_") && one.len() == 4 + 64 && one != two);
        let hash = TokenHash::of(&one);
        assert_eq!(TokenHash::parse(&hash.text()), Some(hash));
        // As sha256sum has it.
        assert_eq!(
            TokenHash::of("abc").text(),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        for text in ["", "sha256:", "sha256:00", &one, &hash.text()[7..], &hash.text().replace("256", "512")]
        {
            assert_eq!(TokenHash::parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_printed_of_a_token_gives_nothing_away() {
        let token = token("ci", "rtd_secret");
        let printed = format!("{token:?} {token} {:?}", token.hash);
        assert!(!printed.contains("secret") && !printed.contains(&token.hash.text()[7..20]), "{printed}");
    }
}
