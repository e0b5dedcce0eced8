//! Clients that ask all the time: not one of their requests may be lost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::task::JoinSet;

use super::{Client, until};

/// Clients that ask one after the other until told to stop; every answer has to be good. They connect anew when an
/// answer says that it is the last on its connection.
pub(crate) struct Load {
    over: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    clients: JoinSet<()>,
}

impl Load {
    pub(crate) fn start(address: SocketAddr, clients: usize) -> Self {
        let (over, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut load = Self { over, served, clients: JoinSet::new() };
        for _ in 0..clients {
            let (over, served) = (Arc::clone(&load.over), Arc::clone(&load.served));
            load.clients.spawn(async move {
                let mut client = Client::connect(address).await;
                while !over.load(Ordering::SeqCst) {
                    let answer = client.get("/?ms=3").await;
                    assert!(answer.is_ok(), "a request was lost: {answer:?}");
                    if answer.header("connection") == "close" {
                        client = Client::connect(address).await;
                    }
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        load
    }

    /// Waits for so many more answers.
    pub(crate) async fn more(&self, wanted: usize) {
        let before = self.served.load(Ordering::SeqCst);
        until("the load goes on", || self.served.load(Ordering::SeqCst) >= before + wanted).await;
    }

    /// Ends it and says how many answers there were.
    pub(crate) async fn end(mut self) -> usize {
        self.over.store(true, Ordering::SeqCst);
        while let Some(end) = self.clients.join_next().await {
            end.unwrap();
        }
        self.served.load(Ordering::SeqCst)
    }
}
