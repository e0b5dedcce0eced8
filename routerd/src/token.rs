//! `routerd token`: makes a token for the admin interface, and the lines of the configuration that go with it.

use std::time::{Duration, UNIX_EPOCH};

use clap::Args;
use router_core::clock;

use crate::config::token::{self, TokenHash};
use crate::config::units::Period;
use crate::config::{Role, Scope};

/// Help of `routerd token`.
pub const EXAMPLES: &str = "\
Examples:
  routerd token --name ci --role deploy --apps shop       may deploy the app shop, and see nothing else
  routerd token --name grafana --role read --expires 90d
  routerd token --name ops --role admin

Put the printed lines into the configuration and reload it. The token itself is printed once and kept nowhere: give it
to whoever is to use it, as a file for `routerd ctl --token-file` or in ROUTERD_TOKEN.";

/// Whose token it is, and what it may.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct TokenArgs {
    /// What logs and the audit trail call whoever shows it: letters, digits, -, _ and .
    #[arg(long, value_parser = name)]
    pub name: String,
    /// What may be asked
    #[arg(long)]
    pub role: Role,
    /// The apps that it has a say over, as in shop,team-*; without it, all of them
    #[arg(long, value_name = "APP,...", value_delimiter = ',', value_parser = app)]
    pub apps: Vec<String>,
    /// How long it is good, as in 90d; without it, until it is taken out of the configuration
    #[arg(long, value_name = "TIME")]
    pub expires: Option<Period>,
}

fn name(text: &str) -> Result<String, String> {
    let allowed = || "allowed: letters, digits, -, _ and ., at most 100 characters".to_owned();
    if crate::config::access::is_name(text) { Ok(text.to_owned()) } else { Err(allowed()) }
}

fn app(text: &str) -> Result<String, String> {
    Scope::parse([text]).map(|_| text.to_owned()).map_err(|_| format!("allowed: {}", Scope::ALLOWED))
}

/// A new token, and what is to be written about it, for people.
///
/// # Errors
/// The system gives no random bits, or the time is beyond every calendar.
pub fn run(args: &TokenArgs) -> Result<String, String> {
    let token = token::generate().map_err(|_| "the system gives no random bits".to_owned())?;
    let TokenArgs { name, role, apps, expires } = args;
    let mut lines = format!(
        "The token, shown this once:\n\n{token}\n\nFor the configuration:\n\n[[admin.tokens]]\nname = \"{name}\"\n\
         hash = \"{}\"\nrole = \"{role}\"\n",
        TokenHash::of(&token).text()
    );
    if !apps.is_empty() {
        let apps: Vec<_> = apps.iter().map(|app| format!("\"{app}\"")).collect();
        lines += &format!("apps = [{}]\n", apps.join(", "));
    }
    if let Some(Period(time)) = expires {
        let at = clock::wall()
            .checked_add(*time)
            .filter(|at| *at < LAST)
            .ok_or("--expires: that is too far away")?;
        lines += &format!("expires = \"{}\"\n", humantime::format_rfc3339_seconds(UNIX_EPOCH + at));
    }
    Ok(lines)
}

/// The beginning of the year 9999, since 1970: what can be written in RFC 3339.
const LAST: Duration = Duration::from_secs(253_370_764_800);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn what_is_printed_is_a_token_and_the_configuration_that_knows_it() {
        let args = TokenArgs {
            name: "ci".to_owned(),
            role: Role::Deploy,
            apps: vec!["shop".to_owned(), "team-*".to_owned()],
            expires: Some(Period(Duration::from_secs(3600))),
        };
        let printed = run(&args).unwrap();
        let token = printed.lines().find(|line| line.starts_with("rtd_")).unwrap();
        let (_, lines) = printed.split_once("configuration:").unwrap();
        let config =
            Config::parse(&format!("{lines}[apps.shop]\n"), "test").unwrap_or_else(|e| panic!("{e}"));
        let tokens = config.admin.unwrap().tokens;
        let found = token::find(&tokens, token).unwrap();
        assert_eq!((found.name.as_str(), found.role), ("ci", Role::Deploy));
        assert!(found.apps.covers("team-a") && !found.apps.covers("blog"));
        assert!(found.expires.unwrap() > clock::wall());
        let far = TokenArgs { expires: Some(Period(Duration::MAX)), ..args };
        assert!(run(&far).unwrap_err().contains("too far"));
    }
}
