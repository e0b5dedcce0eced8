//! The local dyno grid with real processes: boots, crashes, shutdown, output.
#![allow(clippy::unwrap_used, reason = "the helpers of these tests are tests as well")]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use std::{env, fs, process};

use router_core::change::{Change, DynoHealth};
use routerd::up::{Grid, Options, Output, Procfile, Sink, Stop};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

mod command;

/// No step of these tests may take longer.
const DEADLINE: Duration = Duration::from_secs(30);

/// Not a test of its own: the dyno that the tests below start, in a process of its own, from this very binary.
/// It says each connection it gets, and ends with exit code 7 when one says `die`.
#[test]
fn the_dyno_of_these_tests() {
    if env::var_os("THE_DYNO_OF_THESE_TESTS").is_none() {
        return;
    }
    let port: u16 = env::var("PORT").unwrap().parse().unwrap();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let mut stderr = io::stderr();
    writeln!(stderr, "{} listens", env::var("DYNO").unwrap()).unwrap();
    for stream in listener.incoming() {
        writeln!(stderr, "a connection").unwrap();
        let mut said = String::new();
        stream.unwrap().read_to_string(&mut said).unwrap();
        if said == "die" {
            process::exit(7);
        }
    }
}

/// A shell command that runs the dyno above.
fn dyno() -> String {
    let binary = env::current_exe().unwrap();
    format!(
        "THE_DYNO_OF_THESE_TESTS=1 '{}' up::the_dyno_of_these_tests --exact --nocapture",
        binary.display()
    )
}

/// A grid that runs, what its sink was told when, and what it printed.
struct Running {
    changes: watch::Sender<Vec<(Instant, Change)>>,
    text: watch::Sender<Vec<u8>>,
    stop: Stop,
    task: JoinHandle<()>,
}

struct Screen(watch::Sender<Vec<u8>>);

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send_modify(|text| text.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn start(procfile: &str, formation: &str, set: impl FnOnce(&mut Options)) -> Running {
    let (changes, text, stop) = (watch::Sender::new(Vec::new()), watch::Sender::new(Vec::new()), Stop::new());
    let output = Output::new(Box::new(Screen(text.clone())), false).unwrap();
    let mut options = Options::new("shop".into(), "/", output);
    options.restart_after = Duration::from_millis(50);
    set(&mut options);
    let told = changes.clone();
    let sink: Sink = Arc::new(move |new| {
        let now = Instant::now();
        told.send_modify(|all| all.extend(new.into_iter().map(|change| (now, change))));
    });
    let procfile = Procfile::parse(procfile).unwrap();
    let grid = Grid::new(&procfile, &formation.parse().unwrap(), options, sink, stop.clone()).unwrap();
    Running { changes, text, stop, task: tokio::spawn(grid.run()) }
}

impl Running {
    /// The changes so far, in short words.
    fn told(&self) -> Vec<String> {
        self.changes.borrow().iter().map(|(_, change)| short(change)).collect()
    }

    /// Waits until the sink was told this so many times.
    async fn told_often(&self, wanted: &str, times: usize) {
        let mut changes = self.changes.subscribe();
        let seen =
            changes.wait_for(|all| all.iter().filter(|(_, change)| short(change) == wanted).count() >= times);
        assert!(
            timeout(DEADLINE, seen).await.is_ok(),
            "not {times} times {wanted}: {:?}\n{}",
            self.told(),
            self.text()
        );
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.borrow()).into_owned()
    }

    async fn printed(&self, words: &str) {
        let mut text = self.text.subscribe();
        let seen = text.wait_for(|text| String::from_utf8_lossy(text).contains(words));
        assert!(timeout(DEADLINE, seen).await.is_ok(), "not printed: {words}\n{}", self.text());
    }

    /// Where a dyno is, once it has been added.
    fn address(&self, dyno: &str) -> SocketAddr {
        let changes = self.changes.borrow();
        let mut specs = changes.iter().rev().filter_map(|(_, change)| match change {
            Change::AddDyno(_, spec) => Some(spec),
            Change::PutApp(_) | Change::RemoveApp(_) | Change::RemoveDyno(..) => None,
            Change::SetDyno(..) | Change::SetCanary(..) | Change::Hold(..) => None,
        });
        specs.find(|spec| spec.name.as_str() == dyno).unwrap().address
    }

    async fn ended(&mut self) {
        assert!(timeout(DEADLINE, &mut self.task).await.is_ok(), "the grid goes on and on\n{}", self.text());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn short(change: &Change) -> String {
    match change {
        Change::AddDyno(app, spec) => format!("{app}: {} {:?}", spec.name, spec.state),
        Change::SetDyno(app, _, health) => format!("{app}: {health:?}"),
        Change::Hold(app, hold) => format!("{app}: {hold:?}"),
        Change::RemoveDyno(app, _) => format!("{app}: removed"),
        Change::PutApp(_) | Change::RemoveApp(_) | Change::SetCanary(..) => "a change of the app".to_owned(),
    }
}

fn die(address: SocketAddr) {
    TcpStream::connect(address).unwrap().write_all(b"die").unwrap();
}

/// Waits until nobody listens there.
async fn deaf(address: SocketAddr) {
    let refused = async {
        while TcpStream::connect(address).is_ok() {
            tokio::task::yield_now().await;
        }
    };
    assert!(timeout(DEADLINE, refused).await.is_ok(), "somebody still listens on {address}");
}

#[tokio::test]
async fn the_first_dyno_boots_alone_and_each_gets_one_connection_before_it_is_ready() {
    let mut grid = start(&format!("web: {}", dyno()), "web=3", |_| ());
    grid.told_often("shop: Ready", 3).await;
    let told = grid.told();
    assert_eq!(told[..2], ["shop: web.1 Booting", "shop: Ready"], "the others wait for the first: {told:?}");
    let addresses = ["web.1", "web.2", "web.3"].map(|name| grid.address(name));
    assert!(addresses[0] != addresses[1] && addresses[1] != addresses[2] && addresses[0] != addresses[2]);
    // A second check would have come by the time another dyno has crashed and is back.
    die(addresses[2]);
    grid.told_often("shop: Ready", 4).await;
    grid.stop.ask();
    grid.ended().await;
    let text = grid.text();
    for name in ["web.1", "web.2"] {
        assert_eq!(text.matches(&format!("{name}   | a connection")).count(), 1, "{text}");
        assert!(text.contains(&format!("{name}   | {name} listens")), "{text}");
    }
    assert_eq!(grid.told().iter().filter(|change| *change == "shop: removed").count(), 3);
    assert!(addresses.iter().all(|address| TcpStream::connect(address).is_err()));
}

#[tokio::test]
async fn a_dyno_that_crashes_is_started_again_on_its_port() {
    let grid = start(&format!("web: {}", dyno()), "web=1", |_| ());
    grid.told_often("shop: Ready", 1).await;
    let address = grid.address("web.1");
    die(address);
    grid.told_often("shop: Ready", 2).await;
    let expected =
        ["web.1 Booting", "Ready", "Crashed", "Booting", "Ready"].map(|change| format!("shop: {change}"));
    assert_eq!(grid.told(), expected);
    for (_, change) in grid.changes.borrow().iter() {
        assert!(!matches!(change, Change::SetDyno(_, elsewhere, _) if *elsewhere != address));
    }
    grid.printed("routerd | web.1 ended with exit code 7; it is started again in 50ms\n").await;
}

#[tokio::test]
async fn a_dyno_that_keeps_crashing_is_started_less_and_less_often() {
    let max = Duration::from_millis(400);
    let grid = start("web: exit 3", "web=2", |options| options.restart_after_max = max);
    grid.told_often("shop: Booting", 5).await;
    let changes = grid.changes.borrow().clone();
    let times = |health| {
        let is = move |change: &Change| matches!(change, Change::SetDyno(_, _, found) if *found == health);
        changes.iter().filter(move |(_, change)| is(change)).map(|(at, _)| *at)
    };
    let pauses: Vec<_> =
        times(DynoHealth::Crashed).zip(times(DynoHealth::Booting)).map(|(a, b)| b - a).collect();
    for (pause, wanted) in pauses.iter().zip([50, 100, 200, 400, 400]) {
        assert!(*pause >= Duration::from_millis(wanted), "{pauses:?}");
    }
    assert!(!grid.text().contains("web.2"), "the second dyno waits for the first to be ready");
}

#[tokio::test]
async fn a_dyno_that_ran_well_for_long_is_started_again_without_delay() {
    let grid = start(&format!("web: {}", dyno()), "web=1", |options| options.settled_after = Duration::ZERO);
    for times in 1..=4 {
        grid.told_often("shop: Ready", times).await;
        die(grid.address("web.1"));
    }
    grid.told_often("shop: Ready", 5).await;
    assert_eq!(grid.text().matches("started again in 50ms").count(), 4, "{}", grid.text());
}

#[tokio::test]
async fn a_dyno_that_never_listens_counts_as_crashed() {
    let limit = Duration::from_millis(200);
    let grid = start("web: sleep 600", "web=1", |options| options.boot_timeout = limit);
    grid.told_often("shop: Crashed", 2).await;
    grid.printed("within 200ms; it is started again in 50ms\n").await;
    grid.printed("web.1 did not accept a connection on port ").await;
}

#[tokio::test]
async fn what_a_crashed_dyno_left_running_is_ended_before_the_next_start() {
    let grid = start(&format!("web: {} & sleep 0.2; exit 1", dyno()), "web=1", |_| ());
    grid.told_often("shop: Crashed", 3).await;
    let told = grid.told();
    assert!(!told.contains(&"shop: removed".to_owned()), "its port was free again: {told:?}");
    assert!(!grid.text().contains("panicked"), "{}", grid.text());
}

#[tokio::test]
async fn a_shutdown_lets_processes_end_in_their_own_way() {
    let polite = "trap 'echo bye; exit 0' TERM; echo hello; while :; do sleep 0.02; done";
    let mut grid = start(&format!("worker: {polite}"), "worker=2", |_| ());
    for name in ["worker.1 | hello\n", "worker.2 | hello\n"] {
        grid.printed(name).await;
    }
    grid.stop.ask();
    grid.ended().await;
    assert_eq!(grid.text().matches("bye").count(), 2, "{}", grid.text());
    assert!(grid.changes.borrow().is_empty(), "who is no dyno is no change");
}

#[tokio::test]
async fn a_shutdown_kills_the_whole_group_when_its_time_is_over() {
    let stubborn = format!("trap '' TERM; {} & sleep 600", dyno());
    let kill_after = Duration::from_millis(300);
    let mut grid = start(&format!("web: {stubborn}"), "web=2", |options| options.kill_after = kill_after);
    grid.told_often("shop: Ready", 2).await;
    let addresses = [grid.address("web.1"), grid.address("web.2")];
    let begun = Instant::now();
    grid.stop.ask();
    grid.ended().await;
    assert!(begun.elapsed() >= kill_after, "they had their time");
    for address in addresses {
        deaf(address).await;
    }
}

#[tokio::test]
async fn asking_twice_kills_at_once() {
    let stubborn = format!("trap '' TERM; {} & sleep 600", dyno());
    let mut grid = start(&format!("web: {stubborn}"), "web=1", |options| options.kill_after = 100 * DEADLINE);
    grid.told_often("shop: Ready", 1).await;
    grid.stop.ask();
    grid.told_often("shop: removed", 1).await;
    assert!(TcpStream::connect(grid.address("web.1")).is_ok(), "it takes no notice of SIGTERM");
    grid.stop.ask();
    grid.ended().await;
    deaf(grid.address("web.1")).await;
}

#[tokio::test]
async fn a_grid_that_is_dropped_kills_what_it_started() {
    let grid = start(&format!("web: {} & wait", dyno()), "web=1", |_| ());
    grid.told_often("shop: Ready", 1).await;
    let address = grid.address("web.1");
    drop(grid);
    deaf(address).await;
}

#[tokio::test]
async fn a_process_that_has_done_its_work_is_not_started_again_and_the_grid_ends_with_the_last() {
    let mut grid = start("once: echo done $DYNO", "once=2", |_| ());
    grid.ended().await;
    let text = grid.text();
    for line in
        ["once.1  | done once.1\n", "once.2  | done once.2\n", "once.2 ended with exit code 0 and is not"]
    {
        assert_eq!(text.matches(line).count(), 1, "{text}");
    }
}

#[tokio::test]
async fn lines_have_their_name_in_front_and_are_never_mixed() {
    let chatty = "i=0; while [ $i -lt 300 ]; do printf '%s ' $DYNO; printf 'says %s\\n' $i; i=$((i+1)); done";
    let procfile = format!("a: {chatty}; printf 'no line end'\nlonger-name: {{ {chatty}; }} >&2");
    let mut grid = start(&procfile, "a=3,longer-name=3", |_| ());
    grid.ended().await;
    let text = grid.text();
    let mut said = 0;
    for line in text.lines() {
        let (name, words) = line.split_once(" | ").unwrap();
        assert_eq!(name.len(), "longer-name.1".len(), "names stand in a column: {line}");
        let name = name.trim_end();
        if name == "routerd" || words == "no line end" {
            continue;
        }
        let number = words.strip_prefix(name).and_then(|rest| rest.strip_prefix(" says ")).unwrap_or("mixed");
        assert!(number.parse::<u32>().is_ok(), "{line}");
        said += 1;
    }
    assert_eq!(said, 6 * 300);
    assert_eq!(text.matches(" | no line end\n").count(), 3);
}

#[tokio::test]
async fn names_have_colours_only_where_colour_is_wanted() {
    for colour in [true, false] {
        let text = watch::Sender::new(Vec::new());
        let output = Output::new(Box::new(Screen(text.clone())), colour).unwrap();
        let options = Options::new("shop".into(), "/", output);
        let procfile = Procfile::parse("once: echo hello").unwrap();
        let formation = "once=1".parse().unwrap();
        let grid = Grid::new(&procfile, &formation, options, Arc::new(|_| ()), Stop::new()).unwrap();
        timeout(DEADLINE, grid.run()).await.unwrap();
        let text = String::from_utf8(text.borrow().clone()).unwrap();
        let plain = "once.1  | hello\n";
        let coloured = "\x1b[36monce.1  | \x1b[0mhello\x1b[0m\n";
        assert!(text.contains(if colour { coloured } else { plain }), "{text:?}");
        assert_eq!(text.contains('\x1b'), colour, "{text:?}");
    }
}

#[test]
fn a_bad_procfile_is_named_with_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("Procfile");
    let refused = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        Procfile::read(&path).unwrap_err()
    };
    let error = refused(b"web: puma\n\nworker sidekiq\n");
    assert_eq!(error.line(), Some(3));
    let words =
        format!("{}, line 3: a line is `NAME: COMMAND`, and `worker sidekiq` has no colon", path.display());
    assert_eq!(error.to_string(), words);
    assert_eq!(
        refused(b"web: puma\n# \xff\n").to_string(),
        format!("{}, line 2: this is not UTF-8", path.display())
    );
    assert_eq!(refused(&[b'#'; 100_000]).line(), None);
    fs::remove_file(&path).unwrap();
    let error = Procfile::read(&path).unwrap_err().to_string();
    assert_eq!(error, format!("there is no Procfile at {}", path.display()));
    assert!(Procfile::read(directory.path()).unwrap_err().to_string().contains("it is a directory"));
}
