//! Deploys, rollbacks, reloads and upgrades under load of 80 %: no request is lost, and no dyno sees two at once.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use router_core::sync::Mutex;
use routerd::config::Config;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{deploy_of, texts, with_plan};
use crate::support::{Client, Dyno, Rig, until};
use crate::takeover::{has_all, takes_over};

/// Dynos of a release.
const DYNOS: usize = 20;
/// How long a request takes.
const SERVICE: Duration = Duration::from_millis(25);

/// How long a connection is kept that nobody needs: a daemon that ends lets its clients ask for a second longer.
const KEPT: Duration = Duration::from_millis(500);

/// How often each thing is done. `ROUNDS=50` is the long form.
fn rounds() -> usize {
    std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4)
}

/// Requests that come at their times, whatever becomes of those before; each on a connection that is free.
struct OpenLoop {
    over: Arc<AtomicBool>,
    waits: Arc<Mutex<Vec<Duration>>>,
    task: tokio::task::JoinHandle<()>,
}

impl OpenLoop {
    /// At 80 % of what the dynos can do, by arrivals that know nothing of each other.
    fn start(address: SocketAddr) -> Self {
        let (over, waits) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stop, seen) = (Arc::clone(&over), Arc::clone(&waits));
        let task = tokio::spawn(async move {
            let free: Arc<Mutex<Vec<(Client, Instant)>>> = Arc::default();
            let mean = SERVICE.as_secs_f64() / (DYNOS as f64 * 0.8);
            let mut running = JoinSet::new();
            let mut next = Instant::now();
            while !stop.load(Ordering::SeqCst) {
                next += Duration::from_secs_f64(-mean * (1.0 - fastrand::f64()).ln());
                tokio::time::sleep_until(next).await;
                while let Some(done) = running.try_join_next() {
                    done.unwrap();
                }
                let (free, seen) = (Arc::clone(&free), Arc::clone(&seen));
                running.spawn(async move {
                    let kept = free.lock().pop();
                    let fresh = |(_, since): &(Client, Instant)| since.elapsed() < KEPT;
                    let mut client = match kept.filter(fresh) {
                        Some((client, _)) => client,
                        None => Client::connect(address).await,
                    };
                    let begun = Instant::now();
                    let answer = client.get(&format!("/?ms={}", SERVICE.as_millis())).await;
                    assert!(answer.is_ok(), "a request was lost: {answer:?}");
                    seen.lock().push(begun.elapsed().saturating_sub(SERVICE));
                    if answer.header("connection") != "close" {
                        free.lock().push((client, Instant::now()));
                    }
                });
            }
            while let Some(done) = running.join_next().await {
                done.unwrap();
            }
        });
        Self { over, waits, task }
    }

    /// What has been waited since the last time this was asked: how many requests, and the longest of 99 in 100.
    fn take(&self) -> (usize, Duration) {
        let mut waits = std::mem::take(&mut *self.waits.lock());
        waits.sort_unstable();
        let p99 = waits.get(waits.len() * 99 / 100).copied().unwrap_or_default();
        (waits.len(), p99)
    }

    async fn end(self) {
        self.over.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deploys_rollbacks_reloads_and_upgrades_under_load_lose_nothing() {
    let (one, two) = (Dyno::several(DYNOS).await, Dyno::several(DYNOS).await);
    let list =
        |dynos: &[Dyno]| texts(dynos).iter().map(|at| format!("'{at}'")).collect::<Vec<_>>().join(", ");
    // Where the machine stands still for a second or two, the load does not: nobody is to be refused for that.
    let text = |wait: usize| {
        format!(
            "[server]\nlisten = ['127.0.0.1:0']\n[apps.shop]\ndynos = [{}]\nhealth.interval = '1s'\n\
             deploy = {{ probe_every = '5ms' }}\n\
             queue = {{ max_requests_per_dyno = 1000, standing_wait = '60s', max_wait = '{wait}s' }}\n",
            list(&one)
        )
    };
    let mut rig = Rig::from_toml(&text(60)).await;
    let folder = tempfile::tempdir().unwrap();
    let handover = folder.path().join("handover");
    rig.daemon.as_ref().unwrap().offer(&handover).await.unwrap();
    let wrong = folder.path().join("wrong.toml");
    std::fs::write(&wrong, text(60).replace("'60s'", "5")).unwrap();
    let load = OpenLoop::start(rig.address);
    until("the load is there", || rig.log.count() > 500).await;
    let _warm = load.take();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let quiet = load.take();

    let (mut upgrades, mut faults) = (0, Vec::new());
    for round in 0..rounds() {
        let daemon = rig.daemon.as_ref().unwrap();
        let (release, dynos) = if round % 2 == 0 { ("v2", &two) } else { ("v1", &one) };
        let baked = |plan: &mut super::PlanOrder| plan.bake_time = Some("10s".parse().unwrap());
        // Taken back, while it is being watched.
        let id = rig.begin(with_plan(deploy_of(release, &texts(dynos)), baked)).await;
        rig.reaches(id, "baking").await;
        rig.order(super::back()).await.unwrap();
        rig.ends(id, "rolled_back").await;
        // And done.
        let id = rig.begin(deploy_of(release, &texts(dynos))).await;
        rig.ends(id, "done").await;
        for reload in 0..2 {
            daemon.reload(Config::parse(&text(60 + (round + reload) % 3), "x").unwrap()).await.unwrap();
            assert!(daemon.reload_file(&wrong).await.is_err());
        }
        // Five times in all.
        if round % rounds().div_ceil(5) == 0 {
            let (new, ends) = takes_over(rig, &text(60), &handover).await;
            has_all(&new).await;
            let (cut, old) = ends.await.unwrap();
            assert_eq!(cut, 0);
            faults.append(&mut old.log.faults());
            upgrades += 1;
            rig = new;
        }
    }
    let (requests, p99) = load.take();
    load.end().await;
    faults.append(&mut rig.log.faults());
    assert_eq!(faults, Vec::<String>::new());
    let rounds = rounds();
    let (reloads, (calm, quiet)) = (rounds * 2, quiet);
    let _ = writeln!(
        std::io::stderr(),
        "{rounds} deploys, {rounds} rollbacks, {reloads} reloads, {reloads} of a wrong file and {upgrades} upgrades \
         under {requests} requests: p99 of the wait {p99:?}, in {calm} quiet requests {quiet:?}"
    );
}
