//! Names and passwords of an app's users, as bcrypt hashes: what `htpasswd -B` and `routerd password` write.

use std::fmt;
use std::path::PathBuf;

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};

/// A password may have this many bytes; bcrypt would not look at more.
pub const PASSWORD_MAX: usize = 72;
/// The costs that are allowed. Each step doubles the time of a check; 14 takes about a second.
const COSTS: std::ops::RangeInclusive<u32> = 4..=14;
/// The most characters of a name.
const NAME_MAX: usize = 100;

/// Who has to show a name and a password. The keys are described in [`super::file::BasicAuth`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BasicAuth {
    /// What the client is told that the password is for: no quotes, no backslash, ASCII.
    pub realm: String,
    /// Each name is there once; at least one.
    pub users: Vec<User>,
    /// Where some of them were read from.
    pub users_file: Option<PathBuf>,
}

/// One user.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// Whoever shows this name, and the password.
    pub name: String,
    hash: String,
    cost: u32,
}

impl User {
    /// What may be written, for messages.
    pub const ALLOWED: &'static str =
        "what `routerd password` prints: NAME:$2b$12$..., with a cost from 4 to 14";

    /// Reads `NAME:HASH`.
    ///
    /// # Errors
    /// Why it is none. It says nothing of what was written.
    pub fn parse(line: &str) -> Result<Self, &'static str> {
        let (name, hash) = line.split_once(':').ok_or("this is not NAME:HASH")?;
        if name.is_empty() || name.len() > NAME_MAX || name.chars().any(char::is_control) {
            return Err("the name has 1 to 100 characters, and no colon");
        }
        let (kind, rest) = hash.split_at_checked(4).ok_or("this is no bcrypt hash")?;
        let (cost, rest) = rest.split_once('$').ok_or("this is no bcrypt hash")?;
        let digits = cost.len() == 2 && cost.bytes().all(|byte| byte.is_ascii_digit());
        let letters = rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/'));
        if !matches!(kind, "$2a$" | "$2b$" | "$2y$") || !digits || rest.len() != 53 || !letters {
            return Err("this is no bcrypt hash");
        }
        let cost =
            cost.parse().ok().filter(|cost| COSTS.contains(cost)).ok_or("the cost is none from 4 to 14")?;
        Ok(Self { name: name.to_owned(), hash: hash.to_owned(), cost })
    }

    /// The hash of the password as it is written.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// How long a check takes: each step doubles it.
    pub fn cost(&self) -> u32 {
        self.cost
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = HEXLOWER.encode(&digest(&SHA256, self.hash.as_bytes()).as_ref()[..4]);
        write!(f, "{} ({mark})", self.name)
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "User({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_a_name_and_a_bcrypt_hash_of_a_cost_that_can_be_borne() {
        let hash = "$2y$05$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234";
        let user = User::parse(&format!("ops:{hash}")).unwrap();
        assert_eq!((user.name.as_str(), user.hash(), user.cost()), ("ops", hash, 5));
        assert!(!format!("{user:?}").contains("abc"), "no part of a hash is shown");
        for line in [
            "",
            "ops",
            "ops:",
            "ops:secret",
            &format!(":{hash}"),
            &format!("a\tb:{hash}"),
            &format!("ops:{hash}x"),
            &format!("ops:{}", hash.replace("$05$", "$5$")),
            &format!("ops:{}", hash.replace("$05$", "$15$")),
            &format!("ops:{}", hash.replace("$05$", "$03$")),
            &format!("ops:{}", hash.replace("$2y$", "$2z$")),
            &format!("ops:{}", hash.replace('4', ":")),
            "ops:$apr1$abcdefgh$0123456789012345678901",
            "ops:{SHA}0123456789012345678901234567=",
            "ops:$2é$05$abc",
        ] {
            assert!(User::parse(line).is_err(), "{line:?}");
        }
    }
}
