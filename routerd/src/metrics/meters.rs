//! Counters and histograms of requests, fed once as each request ends.
//!
//! Each app has its handles in one place, found with one look into a map that is replaced whole when an app is met
//! for the first time: counting a request takes no lock, and neither allocates nor asks the registry for a series it
//! has counted in before. The registry keeps the observations of a histogram until they are sorted into buckets; that
//! is [`Meters::upkeep`], which must run about once a second.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use metrics::{Counter, Histogram, Key, Label, Level, Metadata, Recorder, SetRecorderError};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use router_core::fault::Fault;
use router_core::ids::AppId;
use router_core::policy::deploy::Tally;
use router_core::proxy::Record;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::{BUCKETS, Kind, METRICS, Metric, Scrape, Total};

/// How often observations are sorted into buckets.
const UPKEEP_EVERY: Duration = Duration::from_secs(1);

/// Statuses that get a series of their own name.
const STATUSES: std::ops::Range<u16> = 100..600;

/// The meters of a daemon. Clones share them.
#[derive(Clone)]
pub struct Meters(Arc<Inner>);

struct Inner {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
    apps: ArcSwap<HashMap<AppId, Arc<AppMeters>>>,
    /// Requests whose host no app has.
    no_app: AppMeters,
}

/// The handles of one app.
struct AppMeters {
    /// What stands in the label.
    app: Box<str>,
    queue_wait: Histogram,
    service: Histogram,
    request: Histogram,
    response_bytes: Counter,
    retries: Counter,
    /// Hits and spills.
    sticky: [Counter; 2],
    total: Total,
    /// Requests without a fault: by the hundreds of the status, then by the rest of it.
    served: [OnceLock<Box<[OnceLock<Counter>; 100]>>; 5],
    /// Requests with a fault and the fault's own status, in the order of [`Fault::ALL`].
    faults: [OnceLock<Counter>; Fault::ALL.len()],
}

impl Default for Meters {
    fn default() -> Self {
        Self::new()
    }
}

impl Meters {
    /// Meters that stand at zero.
    pub fn new() -> Self {
        let builder = PrometheusBuilder::new();
        // The only error is an empty list of buckets, and there the registry makes summaries of the histograms.
        let builder = builder.set_buckets(&BUCKETS).unwrap_or_else(|_| PrometheusBuilder::new());
        let recorder = Arc::new(builder.build_recorder());
        for metric in METRICS {
            match metric.kind {
                Kind::Counter => recorder.describe_counter(metric.name.into(), None, metric.meaning.into()),
                Kind::Gauge => recorder.describe_gauge(metric.name.into(), None, metric.meaning.into()),
                Kind::Histogram => {
                    recorder.describe_histogram(metric.name.into(), None, metric.meaning.into())
                }
            }
        }
        let no_app = AppMeters::new(&recorder, "");
        Self(Arc::new(Inner { handle: recorder.handle(), recorder, apps: ArcSwap::default(), no_app }))
    }

    /// Makes these meters the ones that the `metrics` macros of the whole process feed.
    ///
    /// # Errors
    ///
    /// When the process has others already.
    pub fn install(&self) -> Result<(), SetRecorderError<Arc<PrometheusRecorder>>> {
        metrics::set_global_recorder(Arc::clone(&self.0.recorder))
    }

    /// Counts a request that is over.
    pub fn count(&self, record: &Record) {
        let inner = &*self.0;
        match &record.app {
            None => inner.no_app.count(&inner.recorder, record),
            Some(app) => match inner.apps.load().get(app) {
                Some(meters) => meters.count(&inner.recorder, record),
                None => inner.first_of(app).count(&inner.recorder, record),
            },
        }
    }

    /// What the dynos of an app have done so far.
    pub fn tally(&self, app: &AppId) -> Tally {
        self.0.apps.load().get(app).map(|meters| meters.total.read()).unwrap_or_default()
    }

    /// Counts a probe of a dyno that serves.
    pub fn probed(&self, app: &AppId, good: bool) {
        let result = if good { "good" } else { "bad" };
        let key = key(&super::PROBES, &[app.as_str(), result]);
        self.0.recorder.register_counter(&key, &METADATA).increment(1);
    }

    /// Counts a connection or stream of HTTP/2 that was ended because of what its client did.
    pub fn http2_trouble(&self, kind: &'static str) {
        let key = key(&super::HTTP2_TROUBLE, &[kind]);
        self.0.recorder.register_counter(&key, &METADATA).increment(1);
    }

    /// Everything there is to know, in the text format of Prometheus.
    pub fn render(&self, scrape: &Scrape) -> String {
        let mut text = self.0.handle.render();
        scrape.write(&mut text);
        text
    }

    /// Sorts observations into buckets once a second until `stop` is true or its sender is gone.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost; observations gather until the next upkeep or scrape.
    pub async fn upkeep(self, mut stop: watch::Receiver<bool>) {
        let mut ticks = tokio::time::interval(UPKEEP_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stopped(&mut stop) => return,
                _ = ticks.tick() => {}
            }
            let handle = self.0.handle.clone();
            // Sorting a busy second takes milliseconds, which the requests of this thread should not wait. Should
            // it have panicked, the next second tries again.
            let _ = tokio::task::spawn_blocking(move || handle.run_upkeep()).await;
        }
    }
}

/// Until the signal is given, or nobody is left to give it.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

impl std::fmt::Debug for Meters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meters").field("apps", &self.0.apps.load().len()).finish_non_exhaustive()
    }
}

impl Inner {
    /// The handles of an app that was not in the map.
    fn first_of(&self, app: &AppId) -> Arc<AppMeters> {
        // Two threads may both come here: the registry gives both the same series, and one map wins.
        let meters = Arc::new(AppMeters::new(&self.recorder, app.as_str()));
        self.apps.rcu(|apps| {
            let mut apps = HashMap::clone(apps);
            apps.entry(app.clone()).or_insert_with(|| Arc::clone(&meters));
            apps
        });
        meters
    }
}

impl AppMeters {
    fn new(recorder: &PrometheusRecorder, app: &str) -> Self {
        let counter = |metric| recorder.register_counter(&key(metric, &[app]), &METADATA);
        let histogram = |metric| recorder.register_histogram(&key(metric, &[app]), &METADATA);
        Self {
            app: app.into(),
            queue_wait: histogram(&super::QUEUE_WAIT),
            service: histogram(&super::SERVICE),
            request: histogram(&super::REQUEST),
            response_bytes: counter(&super::RESPONSE_BYTES),
            retries: counter(&super::RETRIES),
            sticky: ["hit", "spill"]
                .map(|result| recorder.register_counter(&key(&super::STICKY, &[app, result]), &METADATA)),
            total: Total::default(),
            served: [const { OnceLock::new() }; 5],
            faults: [const { OnceLock::new() }; Fault::ALL.len()],
        }
    }

    fn count(&self, recorder: &PrometheusRecorder, record: &Record) {
        match record.fault {
            None => self.count_served(recorder, record.status),
            Some(fault) => self.count_fault(recorder, fault, record.status),
        }
        // A WebSocket may last for hours, which nobody has waited.
        let total = record.total.saturating_sub(record.upgraded.map_or(Duration::ZERO, |it| it.lasted));
        self.request.record(total.as_secs_f64());
        self.response_bytes.increment(record.bytes);
        if record.app.is_some() {
            self.queue_wait.record(record.queue.as_secs_f64());
        }
        if record.dyno.is_some() {
            self.service.record(record.service.as_secs_f64());
            self.total.add(record);
        }
        if let Some(stuck) = record.stuck {
            self.sticky[usize::from(!stuck)].increment(1);
        }
        if record.tries > 1 {
            self.retries.increment(u64::from(record.tries - 1));
        }
    }

    fn count_served(&self, recorder: &PrometheusRecorder, status: u16) {
        if !STATUSES.contains(&status) {
            return self.requests(recorder, status, "").increment(1);
        }
        let (hundreds, rest) = (usize::from(status / 100 - 1), usize::from(status % 100));
        let counters = self.served[hundreds].get_or_init(|| Box::new([const { OnceLock::new() }; 100]));
        counters[rest].get_or_init(|| self.requests(recorder, status, "")).increment(1);
    }

    fn count_fault(&self, recorder: &PrometheusRecorder, fault: Fault, status: u16) {
        let place = Fault::ALL.iter().position(|&known| known == fault);
        match place.filter(|_| status == fault.status()) {
            Some(place) => {
                self.faults[place].get_or_init(|| self.requests(recorder, status, fault.code())).increment(1);
            }
            // An answer that broke off after its head has the dyno's status: rare enough to ask the registry.
            None => self.requests(recorder, status, fault.code()).increment(1),
        }
    }

    fn requests(&self, recorder: &PrometheusRecorder, status: u16, fault: &str) -> Counter {
        let status = match status {
            0 => String::new(),
            status if STATUSES.contains(&status) => status.to_string(),
            _ => "other".to_owned(),
        };
        recorder.register_counter(&key(&super::REQUESTS, &[&self.app, &status, fault]), &METADATA)
    }
}

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

fn key(metric: &Metric, values: &[&str]) -> Key {
    debug_assert_eq!(metric.labels.len(), values.len(), "{} has other labels", metric.name);
    let labels = metric.labels.iter().zip(values);
    let labels: Vec<Label> = labels.map(|(&label, value)| Label::new(label, (*value).to_owned())).collect();
    Key::from_parts(metric.name, labels)
}
