//! Proxies that this tool starts itself: each with a configuration made for the dynos at hand, in a directory of its
//! own, ended with the run.

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::comparison::Logs;
use crate::link::Tls;

mod caddy;
mod envoy;
pub mod find;
mod haproxy;
mod kamal;
mod nginx;
mod pingora;
mod routerd;
mod started;
mod traefik;

pub use started::Started;

/// A proxy that can be started: a program and how it is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Peer {
    /// This project's daemon.
    Routerd,
    /// HAProxy: one backend queue, `maxconn 1` for each dyno.
    Haproxy,
    /// nginx: `max_conns=1` for each dyno; what finds none free gets 502, its free form has no queue.
    Nginx,
    /// Envoy: one connection for each dyno, least requests of all dynos, one worker.
    Envoy,
    /// Traefik: the least loaded of all dynos; it has no bound for a server.
    Traefik,
    /// Caddy: one request and one connection for each dyno, others try again every few milliseconds.
    Caddy,
    /// A Pingora proxy with this project's line inside: examples/pingora.
    Pingora,
    /// kamal-proxy: all dynos in turn; it has no bound for a target.
    KamalProxy,
    /// Two HAProxy processes on one port, each with `maxconn 1`: neither knows of the other.
    HaproxyTwo,
    /// nginx without `max_conns`: round robin, as most people run it.
    NginxUnlimited,
    /// HAProxy with `balance random(1)` and no bound: a router that draws any dyno.
    Random,
}

/// What a proxy is configured for.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// Where it shall listen.
    pub listen: SocketAddr,
    /// The dynos.
    pub dynos: &'a [SocketAddr],
    /// Plain forwarding: a dyno takes as many requests as come.
    pub plain: bool,
    /// The `Host` of the requests.
    pub host: &'a str,
    /// How many connections the open-file limit leaves it on each side.
    pub connections: u64,
    /// How many threads or processes it shall use.
    pub threads: u32,
    /// The files with certificate and key, if it shall speak TLS to clients.
    pub tls: Option<&'a Files>,
    /// Whether clients may speak HTTP/2: from the first byte, or by ALPN with TLS.
    pub http2: bool,
    /// Its own directory.
    pub dir: &'a Path,
}

/// What a proxy is started for, whichever it is.
#[derive(Clone, Copy, Debug)]
pub struct Load<'a> {
    /// Plain forwarding: a dyno takes as many requests as come.
    pub plain: bool,
    /// The `Host` of the requests.
    pub host: &'a str,
    /// How many threads or processes it shall use.
    pub threads: u32,
    /// How TLS is spoken to it, if it is: it shows the certificate that is in there.
    pub tls: Option<&'a Tls>,
    /// Whether clients may speak HTTP/2.
    pub http2: bool,
}

/// The certificate that a proxy shows.
#[derive(Debug)]
pub struct Files {
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Both in one file.
    pub both: PathBuf,
}

/// When a process is ready.
#[derive(Clone, Copy, Debug, Default)]
enum Ready {
    /// When it accepts.
    #[default]
    Accepts,
    /// When it answers this path otherwise than with 404.
    Answers(&'static str),
    /// When it accepts, on this socket in its directory too.
    Commands(&'static str),
}

/// One process of a proxy.
#[derive(Debug, Default)]
struct Recipe {
    /// Files to write into its directory, by name.
    files: Vec<(&'static str, String)>,
    args: Vec<OsString>,
    /// Variables of its environment.
    env: Vec<(&'static str, OsString)>,
    /// When the configuration is in force.
    ready: Ready,
    /// Arguments of a second call, once it is ready: an order to the first.
    order: Vec<OsString>,
    /// Where it accepts besides: an address that no other process of the proxy shares.
    own: Option<SocketAddr>,
}

impl Peer {
    /// Its name, as on the command line and the page.
    pub fn name(self) -> &'static str {
        match self {
            Self::Routerd => "routerd",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Envoy => "envoy",
            Self::Traefik => "traefik",
            Self::Caddy => "caddy",
            Self::Pingora => "pingora",
            Self::KamalProxy => "kamal-proxy",
            Self::HaproxyTwo => "haproxy-two",
            Self::NginxUnlimited => "nginx-unlimited",
            Self::Random => "random",
        }
    }

    /// The peer whose program it is, in its strongest form.
    pub fn software(self) -> Self {
        match self {
            Self::HaproxyTwo | Self::Random => Self::Haproxy,
            Self::NginxUnlimited => Self::Nginx,
            Self::Routerd
            | Self::Haproxy
            | Self::Nginx
            | Self::Envoy
            | Self::Traefik
            | Self::Caddy
            | Self::Pingora
            | Self::KamalProxy => self,
        }
    }

    /// Whether it is a set-up known to give a dyno several requests at once: made to show that this is found.
    pub fn breaks(self) -> bool {
        self != self.software()
    }

    /// How it is set up for one request a dyno and what it cannot do, in a line.
    pub fn form(self) -> &'static str {
        match self {
            Self::Routerd => "one line, each dyno takes the next request when it is free",
            Self::Haproxy => "maxconn 1 for each dyno, all others wait in the backend's one queue",
            Self::Nginx => {
                "max_conns=1 for each dyno in a shared zone; no queue: what finds none free gets 502"
            }
            Self::Envoy => {
                "one connection a dyno, fewest requests of all, one worker; waiting is bound to a dyno"
            }
            Self::Traefik => {
                "no bound for a dyno, only the least loaded is chosen: dynos get several at once"
            }
            Self::Caddy => "max_requests 1 and one connection a dyno; no line: others try again every 5 ms",
            Self::Pingora => "Pingora has no bound or queue: this is its frame around this project's line",
            Self::KamalProxy => "no bound for a dyno and no queue, all in turn: dynos get several at once",
            Self::HaproxyTwo => "breaks the rule: two HAProxy processes with maxconn 1 each, on one port",
            Self::NginxUnlimited => "breaks the rule: round robin without max_conns",
            Self::Random => "breaks the rule: any dyno is drawn for each request (HAProxy, random(1))",
        }
    }

    /// Whether it writes an access log, as it is set up here.
    pub fn logs(self) -> Logs {
        match self {
            // The example has none, and Pingora brings none.
            Self::Pingora => Logs::Off,
            Self::Routerd
            | Self::Haproxy
            | Self::Nginx
            | Self::Envoy
            | Self::Traefik
            | Self::Caddy
            | Self::KamalProxy
            | Self::HaproxyTwo
            | Self::NginxUnlimited
            | Self::Random => Logs::On,
        }
    }

    /// Why it cannot take part, if it cannot: in plain forwarding, or where clients speak HTTP/2 without TLS.
    pub fn cannot(self, plain: bool, bare_http2: bool) -> Option<&'static str> {
        match self {
            Self::Pingora if plain => Some("it is for one request a dyno and has no plain form"),
            Self::KamalProxy if bare_http2 => Some("it speaks HTTP/2 over TLS only (--tls --http2)"),
            Self::Routerd
            | Self::Haproxy
            | Self::Nginx
            | Self::Envoy
            | Self::Traefik
            | Self::Caddy
            | Self::Pingora
            | Self::KamalProxy
            | Self::HaproxyTwo
            | Self::NginxUnlimited
            | Self::Random => None,
        }
    }

    /// Its program, where [`find::Programs`] finds it.
    ///
    /// # Errors
    /// Says where it was looked for, and how to get it.
    pub fn program(self) -> Result<PathBuf, String> {
        find::Programs::default().find(self)
    }

    /// How its processes are started.
    fn recipes(self, setup: &Setup<'_>) -> io::Result<Vec<Recipe>> {
        let one = |recipe| Ok(vec![recipe]);
        let bound = if setup.plain { haproxy::Bound::None } else { haproxy::Bound::One };
        match self {
            Self::Routerd => one(routerd::recipe(setup)),
            Self::Haproxy => one(haproxy::recipe(setup, bound, None)),
            Self::Nginx => one(nginx::recipe(setup, !setup.plain)),
            Self::Envoy => one(envoy::recipe(setup)),
            Self::Traefik => one(traefik::recipe(setup)),
            Self::Caddy => one(caddy::recipe(setup)),
            Self::Pingora => one(pingora::recipe(setup)),
            Self::KamalProxy => one(kamal::recipe(setup, [free_address()?, free_address()?])),
            Self::HaproxyTwo => {
                // Each answers on an address of its own too, or nobody could tell when both are there.
                let own = [free_address()?, free_address()?];
                Ok(own.map(|own| haproxy::recipe(setup, bound, Some(own))).into())
            }
            Self::NginxUnlimited => one(nginx::recipe(setup, false)),
            Self::Random => one(haproxy::recipe(setup, haproxy::Bound::Random, None)),
        }
    }

    /// Starts it and waits until it accepts connections and its configuration is in force.
    ///
    /// # Errors
    /// When it does not, with the end of what it wrote, and when it [`cannot`](Self::cannot).
    pub fn start(self, program: &Path, dynos: &[SocketAddr], load: &Load<'_>) -> io::Result<Started> {
        let why = |error| io::Error::other(format!("{}: {error}", self.name()));
        if let Some(reason) = self.cannot(load.plain, load.http2 && load.tls.is_none()) {
            return Err(why(io::Error::other(reason)));
        }
        let dir = tempfile::Builder::new().prefix("dyno-bench-").tempdir()?;
        let files = load.tls.map(|tls| Files::write(tls, dir.path())).transpose()?;
        let setup = Setup {
            listen: free_address()?,
            dynos,
            plain: load.plain,
            host: load.host,
            connections: connections(),
            threads: load.threads,
            http2: load.http2,
            tls: files.as_ref(),
            dir: dir.path(),
        };
        let recipes = self.recipes(&setup).map_err(why)?;
        let (address, host, tls) = (setup.listen, load.host.to_owned(), load.tls.cloned());
        let mut started = Started { children: Vec::new(), address, host, tls, dir };
        recipes.iter().try_for_each(|recipe| started.add(program, recipe)).map_err(why)?;
        Ok(started)
    }
}

/// Whether somebody accepts connections there.
pub fn accepts(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
}

/// Half of the files that a child may open, less what it needs besides; enough for any load of this tool.
fn connections() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    (limit.unwrap_or(u64::MAX).saturating_sub(200) / 2).clamp(100, 20_000)
}

impl Files {
    fn write(tls: &Tls, dir: &Path) -> io::Result<Self> {
        let path = |name| dir.join(name);
        let files = Self { cert: path("cert.pem"), key: path("key.pem"), both: path("both.pem") };
        let made = tls.certificate();
        std::fs::write(&files.cert, &made.cert)?;
        std::fs::write(&files.key, &made.key)?;
        std::fs::write(&files.both, [&*made.cert, &*made.key].concat())?;
        Ok(files)
    }
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Addresses from 127.0.0.1:4100 up.
    pub(super) fn dynos(count: u16) -> Vec<SocketAddr> {
        (0..count).map(|n| SocketAddr::from((Ipv4Addr::LOCALHOST, 4100 + n))).collect()
    }

    /// Names of files, of which none is there.
    pub(super) fn files() -> Files {
        Files { cert: "/dir/cert.pem".into(), key: "/dir/key.pem".into(), both: "/dir/both.pem".into() }
    }

    /// What the tests of the configurations are made for.
    pub(super) fn setup(dynos: &[SocketAddr], plain: bool) -> Setup<'_> {
        Setup {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            dynos,
            plain,
            host: "bench.test",
            connections: 100,
            threads: 2,
            tls: None,
            http2: false,
            dir: Path::new("/dir"),
        }
    }

    #[test]
    fn a_set_up_that_breaks_the_rule_uses_the_program_of_one_that_keeps_it() {
        use clap::ValueEnum;
        for peer in Peer::value_variants() {
            assert!(!peer.software().breaks(), "{peer:?}");
            assert_eq!(Peer::from_str(peer.name(), false), Ok(*peer));
        }
        assert_eq!(Peer::value_variants().iter().filter(|peer| peer.breaks()).count(), 3);
    }

    #[test]
    fn what_a_proxy_cannot_do_is_known_before_it_is_started() {
        assert_eq!(Peer::Haproxy.cannot(true, true), None);
        assert!(Peer::Pingora.cannot(true, false).is_some_and(|why| why.contains("plain")));
        assert_eq!(Peer::Pingora.cannot(false, true), None);
        assert!(Peer::KamalProxy.cannot(false, true).is_some_and(|why| why.contains("--tls --http2")));
        let load = Load { plain: false, host: "bench.test", threads: 1, tls: None, http2: true };
        let error = Peer::KamalProxy.start(Path::new("/bin/false"), &[], &load).unwrap_err();
        assert!(error.to_string().starts_with("kamal-proxy: it speaks HTTP/2 over TLS only"), "{error}");
    }
}
