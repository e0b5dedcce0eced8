//! The cookies that name dynos: what stands in them, and who may read it.
//!
//! A cookie holds the address of a dyno, encrypted and authenticated with a key of this router or of several that
//! share a secret (ChaCha20-Poly1305). The app's name is part of what is authenticated, so a cookie is good for one
//! app. The nonce is made of what is encrypted, by HMAC: all clients of a dyno have the same cookie, so it tells none
//! of them from another, and one nonce never meets two texts.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use data_encoding::BASE64URL_NOPAD;
use http::HeaderValue;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use router_core::ids::{Address, AppId};
use router_core::proxy::{Asking, cookies};
use router_core::wish::Wish;

use crate::config::Config;
use crate::config::sticky::Sticky;

/// An address of IPv6, or of IPv4 in one, and a port.
const TEXT_LEN: usize = 18;

/// The apps that bind clients to dynos. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Bindings(Arc<Inner>);

struct Inner {
    /// For apps without a secret: as long as this process.
    own: Option<Cipher>,
    apps: ArcSwap<HashMap<AppId, Binding>>,
}

struct Binding {
    rules: Sticky,
    cipher: Cipher,
}

#[derive(Clone)]
struct Cipher(Arc<Keys>);

struct Keys {
    seal: LessSafeKey,
    nonce: hmac::Key,
}

impl Bindings {
    pub(crate) fn new() -> Self {
        let mut secret = [0; 32];
        let own = SystemRandom::new().fill(&mut secret).ok().and_then(|()| Cipher::new(&secret));
        Self(Arc::new(Inner { own, apps: ArcSwap::default() }))
    }

    /// Puts the bindings of a configuration in place, for requests from now on.
    pub(crate) fn set(&self, config: &Config) {
        let bindings = config.apps.iter().filter_map(|app| {
            let rules = app.web.sticky.clone()?;
            let cipher = match &rules.secret {
                Some(secret) => Cipher::new(secret.expose()),
                None => self.0.own.clone(),
            };
            Some((app.spec.id.clone(), Binding { rules, cipher: cipher? }))
        });
        self.0.apps.store(Arc::new(bindings.collect()));
    }
}

impl router_core::proxy::Sticky for Bindings {
    fn wish(&self, asking: &Asking<'_>) -> Option<Wish> {
        let apps = self.0.apps.load();
        let Binding { rules, cipher } = apps.get(asking.app)?;
        let mut shown = cookies(asking.headers, rules.cookie.as_bytes());
        let dyno = shown.find_map(|value| cipher.open(asking.app, value))?;
        Some(Wish { dyno, wait: rules.wait })
    }

    fn bind(&self, app: &AppId, dyno: Address, secure: bool) -> Option<HeaderValue> {
        let apps = self.0.apps.load();
        let Binding { rules, cipher } = apps.get(app)?;
        let value = cipher.seal(app, dyno)?;
        let secure = if secure { "; Secure" } else { "" };
        let cookie = format!("{}={value}; Path=/; HttpOnly; SameSite=Lax{secure}", rules.cookie);
        HeaderValue::try_from(cookie).ok()
    }
}

impl Cipher {
    fn new(secret: &[u8]) -> Option<Self> {
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let key = |of: &[u8]| hmac::sign(&root, of);
        let seal = UnboundKey::new(&CHACHA20_POLY1305, key(b"routerd sticky seal").as_ref()).ok()?;
        let nonce = hmac::Key::new(hmac::HMAC_SHA256, key(b"routerd sticky nonce").as_ref());
        Some(Self(Arc::new(Keys { seal: LessSafeKey::new(seal), nonce })))
    }

    fn seal(&self, app: &AppId, dyno: Address) -> Option<String> {
        let text = text_of(dyno);
        let mut context = hmac::Context::with_key(&self.0.nonce);
        context.update(&text);
        context.update(app.as_str().as_bytes());
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(context.sign().as_ref().get(..NONCE_LEN)?);
        let mut sealed = text.to_vec();
        let (unique, bound) = (Nonce::assume_unique_for_key(nonce), Aad::from(app.as_str()));
        self.0.seal.seal_in_place_append_tag(unique, bound, &mut sealed).ok()?;
        Some(BASE64URL_NOPAD.encode(&[&nonce[..], &sealed].concat()))
    }

    /// The dyno that a cookie names, if it is one of ours for that app.
    fn open(&self, app: &AppId, value: &[u8]) -> Option<Address> {
        // Before anything is decoded: strangers may send much.
        if value.len() > 100 {
            return None;
        }
        let mut bytes = BASE64URL_NOPAD.decode(value).ok()?;
        let (nonce, sealed) = bytes.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let text = self.0.seal.open_in_place(nonce, Aad::from(app.as_str()), sealed).ok()?;
        let (ip, port) = text.split_at_checked(TEXT_LEN - 2)?;
        let (ip, port): ([u8; 16], [u8; 2]) = (ip.try_into().ok()?, port.try_into().ok()?);
        Some(SocketAddr::new(IpAddr::from(ip).to_canonical(), u16::from_be_bytes(port)))
    }
}

fn text_of(dyno: Address) -> [u8; TEXT_LEN] {
    let ip = match dyno.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let mut text = [0; TEXT_LEN];
    text[..16].copy_from_slice(&ip.octets());
    text[16..].copy_from_slice(&dyno.port().to_be_bytes());
    text
}

#[cfg(test)]
mod tests {
    use router_core::proxy::Sticky as _;

    use super::*;

    #[test]
    fn a_cookie_names_its_dyno_to_routers_with_its_secret_for_its_app_alone() {
        let (one, same, other) =
            (Cipher::new(b"a").unwrap(), Cipher::new(b"a").unwrap(), Cipher::new(b"b").unwrap());
        let (shop, blog) = (AppId::new("shop"), AppId::new("blog"));
        for dyno in ["10.1.2.3:3001", "[2001:db8::1]:80"] {
            let dyno: Address = dyno.parse().unwrap();
            let value = one.seal(&shop, dyno).unwrap();
            assert_eq!(same.open(&shop, value.as_bytes()), Some(dyno));
            assert_eq!(value, same.seal(&shop, dyno).unwrap(), "it tells no client from another");
            assert_eq!(
                (other.open(&shop, value.as_bytes()), one.open(&blog, value.as_bytes())),
                (None, None)
            );
            assert!(BASE64URL_NOPAD.decode(value.as_bytes()).is_ok() && value.len() == 62);
            for at in 0..value.len() {
                let mut wrong = value.clone().into_bytes();
                wrong[at] = if wrong[at] == b'A' { b'B' } else { b'A' };
                assert_eq!(one.open(&shop, &wrong), None, "one letter of it is another");
            }
        }
        for none in [&b""[..], b"A", b"=", b"AAAAAAAAAAAAAAAA", &[b'A'; 62], &[b'A'; 10_000], b"\xff"] {
            assert_eq!(one.open(&shop, none), None);
        }
    }

    #[test]
    fn a_cookie_is_for_the_site_for_no_script_and_for_tls_if_it_came_by_it() {
        let bindings = Bindings::new();
        let config = "[apps.shop]\nhosts = ['a']\nsticky.cookie = 'dyno'\n[apps.blog]\nhosts = ['b']\n";
        bindings.set(&Config::parse(config, "a.toml").unwrap());
        let bind = |app: &str, secure| bindings.bind(&AppId::new(app), ([10, 0, 0, 1], 80).into(), secure);
        let (plain, secure) = (bind("shop", false).unwrap(), bind("shop", true).unwrap());
        let plain = plain.to_str().unwrap();
        assert!(plain.starts_with("dyno=") && plain.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{plain}");
        assert_eq!(secure.to_str().unwrap(), format!("{plain}; Secure"));
        assert_eq!(bind("blog", true), None);
    }
}
