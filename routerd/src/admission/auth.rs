//! Who shows a name and a password that an app knows.
//!
//! It is the Basic scheme of RFC 7617. A check of a hash takes a good part of a second, on purpose. So checks run
//! where they may block, only so many at once and only so many from one address in a time; and what was right is
//! remembered, as a keyed hash of name and password. To be refused takes the same time for every name.

use std::collections::HashSet;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use ring::hmac;
use ring::rand::SystemRandom;
use router_core::clock::Clock;
use router_core::fault::Fault;
use router_core::proxy::{Asking, Refusal, Verdict};
use router_core::sync::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::rate::Buckets;
use crate::config::auth::{BasicAuth, PASSWORD_MAX};
use crate::config::door::{Per, RateLimit};
use crate::door::place;

/// How many passwords may be tried at once from one address, and then in each time.
const BURST: NonZeroU32 = NonZeroU32::new(20).expect("it is not zero");
const RATE: &str = "10/m";
/// How many requests may wait for a check, of all apps together, and for how long.
const WAITING: usize = 128;
const WAIT_MAX: Duration = Duration::from_secs(10);
/// How many right passwords an app remembers; beyond, it begins anew.
const KNOWN: usize = 1024;
/// A name and a password may have this many bytes together, as they are sent.
const SHOWN_MAX: usize = 1024;

/// How many checks run at once, and how many wait, of all apps together. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Checks {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

/// The passwords of one app. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Auth(Arc<Inner>);

struct Inner {
    config: BasicAuth,
    challenge: HeaderValue,
    key: hmac::Key,
    known: Mutex<HashSet<[u8; 32]>>,
    tried: Buckets,
    checks: Checks,
    clock: Clock,
}

/// What a request shows.
struct Shown {
    /// Which name and password, without telling them.
    mark: [u8; 32],
    name: Vec<u8>,
    password: Vec<u8>,
}

impl Checks {
    /// For this machine: a quarter of its processors may be busy with checks.
    pub(crate) fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self::with(processors.div_ceil(4))
    }

    fn with(running: usize) -> Self {
        Self { running: Arc::new(Semaphore::new(running)), waiting: Arc::new(Semaphore::new(WAITING)) }
    }
}

impl Auth {
    /// `None`: the system gives no random bits, so nothing can be remembered in secret.
    pub(crate) fn new(config: BasicAuth, checks: &Checks, clock: &Clock) -> Option<Self> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok()?;
        let challenge = format!("Basic realm=\"{}\", charset=\"UTF-8\"", config.realm);
        let challenge = HeaderValue::try_from(challenge).ok()?;
        let limit = RateLimit { per: Per::Ip, rate: RATE.parse().ok()?, burst: BURST };
        let (tried, known) = (Buckets::new(&limit, clock.now()), Mutex::default());
        let (checks, clock) = (checks.clone(), clock.clone());
        Some(Self(Arc::new(Inner { config, challenge, key, known, tried, checks, clock })))
    }

    pub(crate) fn is_of(&self, config: &BasicAuth) -> bool {
        self.0.config == *config
    }

    pub(crate) fn ask(&self, asking: &Asking<'_>) -> Verdict {
        let Some(shown) = self.0.shown(asking.headers) else { return Verdict::Refuse(self.0.unknown()) };
        if self.0.known.lock().contains(&shown.mark) {
            return Verdict::Pass;
        }
        let Ok(place) = Arc::clone(&self.0.checks.waiting).try_acquire_owned() else {
            return Verdict::Refuse(too_often(Duration::from_secs(1)));
        };
        Verdict::Later(Box::pin(Arc::clone(&self.0).check(shown, asking.address, place)))
    }
}

impl Inner {
    fn shown(&self, headers: &HeaderMap) -> Option<Shown> {
        let mut lines = headers.get_all(AUTHORIZATION).iter();
        let (line, None) = (lines.next()?, lines.next()) else { return None };
        let (scheme, rest) = line.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") || rest.len() > SHOWN_MAX {
            return None;
        }
        let pair = BASE64.decode(rest.trim_matches(' ').as_bytes()).ok()?;
        let colon = pair.iter().position(|byte| *byte == b':')?;
        let mut mark = [0; 32];
        mark.copy_from_slice(hmac::sign(&self.key, &pair).as_ref());
        Some(Shown { mark, name: pair[..colon].to_vec(), password: pair[colon + 1..].to_vec() })
    }

    async fn check(
        self: Arc<Self>,
        shown: Shown,
        address: IpAddr,
        place_in_line: OwnedSemaphorePermit,
    ) -> Result<(), Refusal> {
        let turn = timeout(WAIT_MAX, Arc::clone(&self.checks.running).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(too_often(Duration::from_secs(1))) };
        // A page and all that is on it are asked for at once, with the same password.
        if self.known.lock().contains(&shown.mark) {
            return Ok(());
        }
        self.tried.take(&place(address), self.clock.now()).map_err(too_often)?;
        let inner = Arc::clone(&self);
        let checked = tokio::task::spawn_blocking(move || {
            // Held to the end of the check, whether or not somebody still waits for it.
            let _held = (turn, place_in_line);
            let right = inner.is_right(&shown);
            if right {
                inner.remember(shown.mark);
            }
            right
        });
        match checked.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.unknown()),
            Err(_) => Err(Refusal::new(Fault::Platform)),
        }
    }

    /// Takes the same time whether or not there is a user of that name.
    fn is_right(&self, shown: &Shown) -> bool {
        let users = &self.config.users;
        let user = users.iter().find(|user| user.name.as_bytes() == shown.name);
        let Some(checked) = user.or_else(|| users.iter().max_by_key(|user| user.cost())) else {
            return false;
        };
        let short = shown.password.len() <= PASSWORD_MAX;
        let password = if short { &*shown.password } else { &[] };
        let right = bcrypt::verify(password, checked.hash()).unwrap_or(false);
        right && short && user.is_some()
    }

    fn remember(&self, mark: [u8; 32]) {
        let mut known = self.known.lock();
        if known.len() >= KNOWN {
            known.clear();
        }
        known.insert(mark);
    }

    fn unknown(&self) -> Refusal {
        Refusal { challenge: Some(self.challenge.clone()), ..Refusal::new(Fault::Unauthorized) }
    }
}

fn too_often(retry_after: Duration) -> Refusal {
    Refusal { retry_after, ..Refusal::new(Fault::RateLimit) }
}

#[cfg(test)]
mod tests {
    use std::future::{Future, poll_fn};
    use std::pin::Pin;
    use std::task::Poll;

    use http::uri::PathAndQuery;
    use http::{Method, Version};
    use router_core::ids::AppId;

    use super::*;
    use crate::config::auth::User;

    /// An app whose user `ops` has the password `secret`, at the least cost.
    fn auth(checks: &Checks) -> Auth {
        let line = format!("ops:{}", bcrypt::hash("secret", 4).unwrap());
        let users = vec![User::parse(&line).unwrap()];
        let config = BasicAuth { realm: "shop".to_owned(), users, users_file: None };
        Auth::new(config, checks, &Clock::system()).unwrap()
    }

    fn lines(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (AUTHORIZATION, line.parse().unwrap())).collect()
    }

    fn basic(pair: &str) -> HeaderMap {
        lines(&[&format!("Basic {}", BASE64.encode(pair.as_bytes()))])
    }

    fn ask(auth: &Auth, headers: &HeaderMap, last: u8) -> Verdict {
        let (app, path) = (AppId::new("shop"), PathAndQuery::from_static("/"));
        let address = IpAddr::from([192, 0, 2, last]);
        let (path, method, version) = (&path, &Method::GET, Version::HTTP_11);
        auth.ask(&Asking { app: &app, address, host: "shop.test", path, method, version, headers })
    }

    async fn said(verdict: Verdict) -> Option<u16> {
        match verdict {
            Verdict::Pass => None,
            Verdict::Refuse(refusal) => Some(refusal.fault.status()),
            Verdict::Later(later) => later.await.err().map(|refusal| refusal.fault.status()),
            Verdict::Answer(_) => panic!("it answers nothing"),
        }
    }

    #[tokio::test]
    async fn who_shows_a_name_and_its_password_is_let_in_and_remembered() {
        let auth = auth(&Checks::with(1));
        assert_eq!(said(ask(&auth, &basic("ops:secret"), 1)).await, None);
        assert!(matches!(ask(&auth, &basic("ops:secret"), 1), Verdict::Pass), "no second check");
        for pair in ["ops:Secret", "ops:", "Ops:secret", ":secret", "nobody:secret", "ops:secret "] {
            assert_eq!(said(ask(&auth, &basic(pair), 2)).await, Some(401), "{pair}");
        }
        let long = format!("ops:{}", "s".repeat(PASSWORD_MAX + 1));
        assert_eq!(said(ask(&auth, &basic(&long), 2)).await, Some(401));
        let good = BASE64.encode(b"ops:secret");
        for none in [
            lines(&[]),
            lines(&["Basic"]),
            lines(&["Basic ?"]),
            lines(&[&format!("Bearer {good}")]),
            lines(&[&format!("Basic {}", BASE64.encode(b"ops"))]),
            lines(&[&format!("Basic {good}"), &format!("Basic {good}")]),
            lines(&[&format!("Basic {}", BASE64.encode(&[b':'; SHOWN_MAX]))]),
        ] {
            let Verdict::Refuse(refusal) = ask(&auth, &none, 3) else { panic!("{none:?} is checked") };
            assert_eq!(refusal.challenge.unwrap(), "Basic realm=\"shop\", charset=\"UTF-8\"");
        }
        assert_eq!(said(ask(&auth, &lines(&[&format!("bAsIc  {good}")]), 1)).await, None);
    }

    #[tokio::test]
    async fn an_address_tries_so_many_passwords_and_no_more_and_others_are_let_in() {
        let auth = auth(&Checks::with(1));
        for _ in 0..BURST.get() {
            assert_eq!(said(ask(&auth, &basic("ops:wrong"), 1)).await, Some(401));
        }
        assert_eq!(said(ask(&auth, &basic("ops:secret"), 1)).await, Some(429));
        assert_eq!(said(ask(&auth, &basic("ops:secret"), 2)).await, None);
        assert_eq!(said(ask(&auth, &basic("ops:secret"), 1)).await, None, "it is known by now");
    }

    #[tokio::test]
    async fn many_requests_with_one_password_are_one_check() {
        let auth = auth(&Checks::with(1));
        let all: Vec<_> = (0..WAITING).map(|_| ask(&auth, &basic("ops:secret"), 1)).collect();
        assert_eq!(said(ask(&auth, &basic("ops:secret"), 2)).await, Some(429), "so many wait");
        // All but one are answered from memory: 20 checks are the most.
        for one in all {
            assert_eq!(said(one).await, None);
        }
    }

    #[tokio::test]
    async fn a_client_that_leaves_gives_its_place_back() {
        let checks = Checks::with(1);
        let auth = auth(&checks);
        drop(ask(&auth, &basic("ops:secret"), 1));
        assert_eq!(checks.waiting.available_permits(), WAITING);
        let Verdict::Later(mut later) = ask(&auth, &basic("ops:wrong"), 1) else { panic!("it is checked") };
        // Under way, and then left.
        let pending = poll_fn(|cx| Poll::Ready(Pin::new(&mut later).poll(cx).is_pending())).await;
        assert!(pending);
        drop(later);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while checks.running.available_permits() == 0 || checks.waiting.available_permits() < WAITING {
            assert!(tokio::time::Instant::now() < deadline, "the check never ends");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
