//! `dyno-bench peers`: which proxies this machine has, and how to get the others.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::ValueEnum;
use router_bench::peers::{Peer, find};

use crate::{Failed, run};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where a proxy's program is, as envoy=/opt/envoy; may be given again
    #[arg(long, value_name = "NAME=PATH", value_parser = run::peer_path)]
    peer_path: Vec<(Peer, PathBuf)>,
}

pub(crate) fn run(args: &Args) -> Result<bool, Failed> {
    let programs = run::programs(&args.peer_path);
    let mut out = io::stdout().lock();
    for peer in Peer::value_variants() {
        let name = peer.name();
        match programs.find(*peer) {
            Ok(path) => {
                let version =
                    find::version(*peer, &path).unwrap_or_else(|why| format!("version unknown: {why}"));
                writeln!(out, "{name:16} {}\n{:16} {version}", path.display(), "")?;
            }
            Err(why) => writeln!(out, "{name:16} missing: {why}")?,
        }
        writeln!(out, "{:16} {}", "", peer.form())?;
    }
    writeln!(
        out,
        "\nAny other: start it in front of the dynos and name it, `compare --target NAME=ADDR,PID`."
    )?;
    Ok(true)
}
