//! Whatever a client sends: no panic, no hang, answers that are HTTP, and one record for each of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use router_core::Router;
use router_core::change::{AppSpec, Change};
use router_core::limits::Limits;
use router_core::proxy::{Client, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Sends the bytes over a connection and reads all answers. The app has no dynos, so the best answer is H14.
///
/// # Panics
/// When the connection does not end, an answer is no HTTP, or there are more answers than records.
pub fn run(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let Ok(runtime) = runtime else { return };
    runtime.block_on(async {
        let (answers, records) = tokio::time::timeout(Duration::from_secs(10), exchange(data))
            .await
            .expect("a connection whose client is done ends");
        let text = String::from_utf8_lossy(&answers);
        let interim = text.matches("HTTP/1.1 100 ").count();
        let heads = text.matches("HTTP/1.").count() - interim;
        assert!(answers.is_empty() || text.starts_with("HTTP/1."), "an answer is HTTP: {text:?}");
        // hyper answers heads that it cannot read by itself, at most one for a connection.
        assert!(heads <= records + 1, "{heads} answers, {records} records");
    });
}

async fn exchange(data: &[u8]) -> (Vec<u8>, usize) {
    let router = Router::new();
    let app = AppSpec {
        id: "fuzz".into(),
        hosts: vec!["*".into(), "a.test/api".into()],
        release: "v1".into(),
        limits: Limits::default(),
    };
    let added = router.apply(&[Change::PutApp(app)]);
    debug_assert!(added.is_ok(), "the patterns are good");
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let proxy = Proxy::new(router).on_record(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    let (mut ours, theirs) = tokio::io::duplex(data.len().max(1) + (1 << 20));
    let client = Client::new(([192, 0, 2, 1], 1).into(), 80);
    let serve = async {
        let service = service_fn(|request| proxy.serve(&client, request));
        // What the client did wrong is not ours to judge here.
        let _ = Builder::new().half_close(true).serve_connection(TokioIo::new(theirs), service).await;
    };
    let talk = async {
        let _ = ours.write_all(data).await;
        let _ = ours.shutdown().await;
        let mut answers = Vec::new();
        let _ = ours.read_to_end(&mut answers).await;
        answers
    };
    let ((), answers) = tokio::join!(serve, talk);
    (answers, count.load(Ordering::Relaxed))
}
