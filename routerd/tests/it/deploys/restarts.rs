//! A daemon that dies in the middle of a deploy: the next one goes on from what is written, never half.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::{QUICK, texts};
use crate::support::program::{Program, routerd};
use crate::support::{Client, Dyno};

/// How often a daemon is killed in one run of the test. `KILLS=50` is the long form.
fn kills() -> u32 {
    std::env::var("KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(8)
}

fn write(folder: &Path, dynos: &[String]) -> std::path::PathBuf {
    let file = folder.join("shop.toml");
    let list: Vec<_> = dynos.iter().map(|at| format!("'{at}'")).collect();
    let text = format!(
        "[server]\nlisten = ['127.0.0.1:0']\n[admin]\nlisten = 'unix:{0}/admin.sock'\n[state]\nfile = 'state.json'\n\
         [audit]\nfile = 'audit.jsonl'\n[apps.shop]\nrelease = 'v1'\ndynos = [{1}]\n{QUICK}\n",
        folder.display(),
        list.join(", ")
    );
    std::fs::write(&file, text).unwrap();
    file
}

async fn ctl(folder: &Path, args: &[&str]) -> (Value, Option<i32>) {
    let admin = format!("unix:{}/admin.sock", folder.display());
    let args: Vec<String> =
        ["ctl", "--json", "--admin", &admin].iter().chain(args).map(|&it| it.to_owned()).collect();
    let output = tokio::task::spawn_blocking(move || routerd(&args)).await.unwrap();
    (serde_json::from_slice(&output.stdout).unwrap_or(Value::Null), output.status.code())
}

/// Which release each serving dyno runs, by what the daemon says.
async fn serving(folder: &Path) -> Vec<(String, String)> {
    let (dynos, _) = ctl(folder, &["dynos", "shop"]).await;
    let dynos = dynos.as_array().cloned().unwrap_or_default();
    let serves = |dyno: &Value| matches!(dyno["state"].as_str(), Some("idle" | "busy"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    dynos
        .iter()
        .filter(|dyno| serves(dyno))
        .map(|dyno| (text(&dyno["release"]), text(&dyno["address"])))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_is_killed_in_a_deploy_comes_back_whole() {
    let (one, two) = (Dyno::several(2).await, Dyno::several(2).await);
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), &texts(&one));
    let start = || Program::start(&[std::ffi::OsStr::new("run"), "--config".as_ref(), file.as_os_str()]);
    let mut on = ("v1".to_owned(), texts(&one));
    for round in 0..kills() {
        let mut program = start();
        program.says("admin on", 1).await;
        let target =
            if on.0 == "v1" { ("v2".to_owned(), texts(&two)) } else { ("v1".to_owned(), texts(&one)) };
        let order = [
            "deploy",
            "shop",
            "--release",
            &target.0,
            "--dynos",
            &target.1.join(","),
            "--no-wait",
            "--pace",
            "1 every 20ms",
            "--bake",
            "30ms",
        ];
        let (said, code) = ctl(folder.path(), &order).await;
        assert_eq!(code, Some(0), "{said} {:#?}", program.lines());
        // Somewhere between its beginning and a little after its end.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..120))).await;
        assert!(!program.end(Signal::KILL).await.success());

        let mut program = start();
        let address = program.address().await;
        let whole = async || {
            let there = serving(folder.path()).await;
            let is = |(release, dynos): &(String, Vec<String>)| {
                let mut wanted: Vec<_> = dynos.iter().map(|at| (release.clone(), at.clone())).collect();
                let mut there = there.clone();
                wanted.sort();
                there.sort();
                there == wanted
            };
            [is(&on), is(&target)]
        };
        let end = tokio::time::Instant::now() + crate::support::DEADLINE;
        loop {
            let (deploys, _) = ctl(folder.path(), &["deploys"]).await;
            let running = deploys.as_array().is_some_and(|all| all.iter().any(|it| it["ended"].is_null()));
            let whole = whole().await;
            if !running && whole != [false, false] {
                if whole[1] {
                    on = target.clone();
                }
                break;
            }
            assert!(
                tokio::time::Instant::now() < end,
                "round {round}: {:?} {deploys}",
                serving(folder.path()).await
            );
        }
        assert!(Client::connect(address).await.get("/").await.is_ok());
        let (_, code) = ctl(folder.path(), &["audit", "--verify"]).await;
        assert_eq!(code, Some(0), "the trail is whole");
        assert!(program.end(Signal::TERM).await.success());
    }
}
