//! The keys of the door: networks, rates and the PROXY protocol.

use std::num::NonZeroU32;

use router_core::limits::ProxyHeader;

use super::Checker;
use crate::config::access::is_name;
use crate::config::door::{Admission, Networks, Per, ProxyProtocol, Rate, RateLimit};
use crate::config::error::Problem;
use crate::config::file;
use crate::config::key::{Key, Text};
use crate::config::walk::clip;

impl Checker<'_> {
    /// The proxies that are believed, if any are named, and whether they send headers of the PROXY protocol.
    pub(super) fn believed(&mut self, file: &file::Server) -> (Option<Networks>, ProxyProtocol) {
        let written = file.trusted_proxies.value().is_some();
        let trusted = written.then(|| self.networks("server.trusted_proxies", &file.trusted_proxies));
        let header = file.proxy_protocol.or(ProxyProtocol::Off);
        let nobody = trusted.as_ref().is_none_or(Networks::is_empty);
        if let Some(span) = file.proxy_protocol.span()
            && header != ProxyProtocol::Off
            && nobody
            && self.whole
        {
            let message = "server.proxy_protocol: nobody is trusted to send such headers";
            let problem = Problem::new(span, message).found("without server.trusted_proxies");
            self.problem(
                problem.help(r#"add trusted_proxies = ["10.0.0.0/8"], with the addresses of your proxies"#),
            );
        }
        (trusted, header)
    }

    /// Whom root becomes.
    pub(super) fn user_and_group(&mut self, file: &file::Server) -> (Option<String>, Option<String>) {
        let read = |text: &str| match text {
            "" => Ok(None),
            name if is_name(name) => Ok(Some(name.to_owned())),
            _ => Err("this is no name"),
        };
        let allowed = "letters, digits, -, _ and ., at most 100 characters";
        let user = self.text("server.user", &file.user, allowed, read).flatten();
        let group = self.text("server.group", &file.group, allowed, read).flatten();
        if let (None, Some(_), Some(span), true) = (&user, &group, file.group.span(), self.whole) {
            let problem = Problem::new(span, "server.group says nothing without server.user");
            self.problem(problem.help("add user, or take group out"));
        }
        (user, group)
    }

    /// Who an app lets in.
    pub(super) fn admission(&mut self, app: &file::App) -> Admission {
        let allow = self.networks("allow", &app.allow);
        let deny = self.networks("deny", &app.deny);
        Admission { allow, deny, rate_limit: self.rate_limit(&app.rate_limit) }
    }

    fn rate_limit(&mut self, file: &file::RateLimit) -> Option<RateLimit> {
        let allowed = r#""ip", "header:NAME" or "app""#;
        let per = self.text("rate_limit.per", &file.per, allowed, str::parse::<Per>);
        let rate = |text: &str| if text == "none" { Ok(None) } else { text.parse().map(Some) };
        let rate: Rate = self.text("rate_limit.rate", &file.rate, Rate::ALLOWED, rate).flatten()?;
        let burst = file.burst.value().copied().and_then(NonZeroU32::new).unwrap_or(rate.count);
        Some(RateLimit { per: per.unwrap_or_default(), rate, burst })
    }

    fn networks(&mut self, name: &str, key: &Key<Vec<Text>>) -> Networks {
        let texts = key.value().map_or(&[][..], Vec::as_slice);
        let (networks, wrong) = Networks::read(texts.iter().map(Text::as_str));
        for (at, why) in wrong {
            let text = &texts[at];
            let problem = Problem::new(text.span(), format!("{name}: {why}"));
            let problem = problem.found(format!("found \"{}\"", clip(text.as_str())));
            self.problem(problem.help(r#"allowed: "10.0.0.0/8", "192.0.2.1" or "2001:db8::/32""#));
        }
        networks
    }

    /// The header that an app's connections begin with.
    pub(super) fn header(&mut self, app: &file::App) -> ProxyHeader {
        let header = header_to_dynos(app.proxy_protocol.or(file::ProxyWord::Off));
        if header != ProxyHeader::Off {
            self.not_with_h2c(app, "shares a connection, and proxy_protocol says whose it is");
        }
        header
    }
}

/// As the core has it.
pub(super) fn header_to_dynos(word: file::ProxyWord) -> ProxyHeader {
    match word {
        file::ProxyWord::Off => ProxyHeader::Off,
        file::ProxyWord::V1 => ProxyHeader::V1,
        file::ProxyWord::V2 => ProxyHeader::V2,
    }
}
