//! `routerd password`: makes a line for `basic_auth.users` of an app, or for its file.

use std::io::{self, BufRead, Read};

use clap::Args;
use data_encoding::BASE32_NOPAD;
use ring::rand::{SecureRandom, SystemRandom};

use crate::config::auth::{PASSWORD_MAX, User};

/// Help of `routerd password`.
pub const EXAMPLES: &str = "\
Examples:
  routerd password --user ops                  makes a password up, and prints it once with the line for it
  pass show shop | routerd password --user ops --stdin >> users.htpasswd

Put the line into basic_auth.users of an app, or into the file that basic_auth.users_file names, and reload.";

/// The cost of hashes that are made here: about a quarter of a second for each check.
const COST: u32 = 12;

/// Whose password it is.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct PasswordArgs {
    /// The name that goes with it
    #[arg(long)]
    pub user: String,
    /// Read the password from standard input, up to the end of its first line; nothing but the user's line is printed
    #[arg(long)]
    pub stdin: bool,
}

/// What is to be printed.
///
/// # Errors
/// The name or the password cannot be one, or the system gives no random bits.
pub fn run(args: &PasswordArgs) -> Result<String, String> {
    if args.stdin {
        let mut password = String::new();
        // Room for the end of the line.
        let most = PASSWORD_MAX as u64 + 3;
        io::stdin().lock().take(most).read_line(&mut password).map_err(|error| error.to_string())?;
        let password = password.strip_suffix('\n').unwrap_or(&password);
        return line(&args.user, password.strip_suffix('\r').unwrap_or(password), COST);
    }
    let mut chance = [0; 15];
    SystemRandom::new().fill(&mut chance).map_err(|_| "the system gives no random bits".to_owned())?;
    let password = BASE32_NOPAD.encode(&chance).to_ascii_lowercase();
    let line = line(&args.user, &password, COST)?;
    Ok(format!("The password, shown this once:\n\n{password}\n\nFor basic_auth of an app:\n\n{line}"))
}

fn line(user: &str, password: &str, cost: u32) -> Result<String, String> {
    if password.is_empty() || password.len() > PASSWORD_MAX {
        return Err(format!("a password has 1 to {PASSWORD_MAX} bytes"));
    }
    let hash = bcrypt::hash(password, cost).map_err(|error| error.to_string())?;
    let line = format!("{user}:{hash}");
    if user.contains(':') {
        return Err("--user: the name has no colon".to_owned());
    }
    User::parse(&line).map_err(|why| format!("--user: {why}"))?;
    Ok(line + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_a_line_for_the_configuration_with_the_hash_of_the_password() {
        let made = line("ops", "secret", 4).unwrap();
        let user = User::parse(made.trim_end()).unwrap();
        assert_eq!(user.name, "ops");
        assert!(
            bcrypt::verify("secret", user.hash()).unwrap() && !bcrypt::verify("secreT", user.hash()).unwrap()
        );
        for (user, password) in [("", "a"), ("a:b", "a"), ("a\n", "a"), ("a", ""), ("a", &"x".repeat(73))] {
            assert!(line(user, password, 4).is_err(), "{user:?} {password:?}");
        }
        let args = PasswordArgs { user: "ops".to_owned(), stdin: false };
        let printed = run(&args).unwrap();
        let password = printed.lines().nth(2).unwrap();
        let made = User::parse(printed.lines().last().unwrap()).unwrap();
        assert!(password.len() >= 20 && bcrypt::verify(password, made.hash()).unwrap());
    }
}
