//! From root to another user: what it can still do, and what not.

use std::os::unix::fs::{MetadataExt, chown};

use rustix::process::{Signal, getuid};

use crate::support::program::{Program, routerd};
use crate::support::{Client, Dyno, until};

/// Who `nobody` is.
const NOBODY: u32 = 65_534;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn root_opens_the_listeners_and_becomes_the_user_for_good() {
    if !getuid().is_root() {
        return;
    }
    let dyno = Dyno::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (file, state) = (folder.path().join("shop.toml"), folder.path().join("state"));
    std::fs::create_dir(&state).unwrap();
    for path in [folder.path(), &state] {
        chown(path, Some(NOBODY), None).unwrap();
    }
    // One that only root may open.
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let port = (700..1024).find(free).unwrap();
    let text = |user: &str| {
        format!(
            "[server]\nlisten = ['127.0.0.1:{port}']\nuser = '{user}'\nhandover = 'unix:{0}/handover'\n\
             [admin]\nlisten = 'unix:{0}/admin'\n[state]\nfile = '{0}/state.json'\n[apps.shop]\ndynos = ['{1}']\n",
            state.display(),
            dyno.address
        )
    };
    std::fs::write(&file, text("nobody")).unwrap();
    let mut program = Program::start(&["run", "--config", file.to_str().unwrap()]);
    let address = program.address().await;
    assert!(Client::connect(address).await.get("/").await.is_ok());
    let tasks = std::fs::read_dir(format!("/proc/{}/task", program.pid().as_raw_nonzero())).unwrap();
    for task in tasks {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(of("Uid:"), ["65534"; 4]);
        assert!(
            !of("Gid:").contains(&"0".to_owned()) && !of("Groups:").contains(&"0".to_owned()),
            "{status}"
        );
        assert_eq!((of("CapEff:"), of("CapPrm:")), (vec!["0".repeat(16)], vec!["0".repeat(16)]));
    }
    for socket in ["handover", "admin"] {
        until("the socket is there", || state.join(socket).exists()).await;
        assert_eq!(std::fs::metadata(state.join(socket)).unwrap().uid(), NOBODY);
    }
    assert!(program.end(Signal::TERM).await.success());
    for (user, says) in [("no-such-user-here", "there is no user"), ("root", "could become root again")] {
        std::fs::write(&file, text(user)).unwrap();
        let output = routerd(&["run", "--config", file.to_str().unwrap()]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(says), "{error}");
    }
}
