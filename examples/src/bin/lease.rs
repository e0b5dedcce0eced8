//! The lease alone, with a transport of its own: `cargo run -p router-examples --bin lease`
//!
//! router-core's line needs no HTTP. Here the dynos speak a protocol of lines over TCP: a line in, a line out, one
//! connection at a time and one line at a time. The example starts two of them, names a third that is not there,
//! sends six requests at once, and then shows what happens to who waits too long. Read `call` first: it is all
//! that a transport has to do.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use router_core::change::{AppSpec, Change, DynoSpec};
use router_core::fault::Fault;
use router_core::limits::Limits;
use router_core::{AppRef, Lease, Outcome, Router, Ticket};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, sleep_until, timeout, timeout_at};

type Connection = BufStream<TcpStream>;

/// How long a dyno works on a line.
const WORK: Duration = Duration::from_millis(20);

/// Sends one request through the line: wait for a dyno, talk to it, check it in.
///
/// Dropping this future while it waits leaves the line. Do not drop it while it talks: that would check the dyno in at
/// once, although it still works. Whose clients may go away at any time lets the talk go on in a task of its own and
/// lingers, as `router_core::proxy` does.
async fn call(router: &Router, app: &AppRef, question: &str) -> Result<String, Fault> {
    // A place in line. Refused at once when the line is too long; the 0 is the bytes we hold while we wait.
    let mut ticket = router.ticket(app, 0)?;
    loop {
        let mut lease = wait(ticket).await?;
        let limits = lease.limits();

        // A dyno's one connection travels in the parcel of its leases. Only who has the lease may open another.
        let (mut connection, how) = match lease.take_parcel::<Connection>() {
            Some(connection) => (connection, "the connection that came with the lease"),
            None => match connect(lease.dyno().address, limits.connect).await {
                Ok(connection) => (connection, "a new connection"),
                Err(fault) => {
                    // The dyno has seen nothing of us: it goes into quarantine, we to the front of the line.
                    // After `max_tries` dynos `again` gives the fault back, and that is our answer.
                    ticket = lease.again(fault)?;
                    continue;
                }
            },
        };

        return match timeout(limits.first_byte, exchange(&mut connection, question)).await {
            Ok(Ok(answer)) => {
                let (dyno, tries) = (lease.dyno().name.clone(), lease.tries());
                // The connection goes back with the dyno, and the next in line gets both.
                lease.put_parcel(connection);
                lease.check_in(Outcome::Served);
                Ok(format!("{dyno} says {answer:?} over {how}, offered to {tries}"))
            }
            Ok(Err(_)) => {
                // It closed the connection, and may have acted on the request: no parcel, and no second try.
                lease.check_in(Outcome::Failed);
                Err(Fault::ClosedWithoutResponse)
            }
            Err(_) => {
                tokio::spawn(linger(lease, connection));
                Err(Fault::RequestTimeout)
            }
        };
    }
}

/// Waits for a dyno. A ticket has no timer of its own, since the core has no runtime: its owner waits until the
/// deadline and calls `expire`. A dyno that was granted at the last moment is then a lease and no fault.
///
/// This future may be dropped at any time: then the ticket leaves the line.
async fn wait(mut ticket: Ticket) -> Result<Lease, Fault> {
    loop {
        let Some(deadline) = ticket.deadline() else { return ticket.await };
        if let Ok(granted) = timeout_at(deadline.into(), &mut ticket).await {
            return granted;
        }
        // It moves while the line is paused.
        if ticket.deadline().is_none_or(|now| now <= deadline) {
            return ticket.expire();
        }
    }
}

async fn connect(address: SocketAddr, longest: Duration) -> Result<Box<Connection>, Fault> {
    match timeout(longest, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => Ok(Box::new(BufStream::new(stream))),
        Ok(Err(_)) => Err(Fault::ConnectRefused),
        Err(_) => Err(Fault::ConnectTimeout),
    }
}

async fn exchange(connection: &mut Connection, question: &str) -> io::Result<String> {
    connection.write_all(question.as_bytes()).await?;
    connection.write_all(b"\n").await?;
    connection.flush().await?;
    let mut answer = String::new();
    match connection.read_line(&mut answer).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(answer.trim_end().to_owned()),
    }
}

/// Nobody waits for the answer any more, but the dyno still works on it: it stays busy until it has ended. To check
/// it in earlier would send it a second request at the same time.
async fn linger(mut lease: Lease, mut connection: Box<Connection>) {
    lease.linger();
    let mut answer = String::new();
    // Its end is its end, whether by a line, by closing, or because our patience is over. The connection is not used
    // again: part of the answer may have been read before the time-out.
    let _ended = timeout(lease.limits().linger, connection.read_line(&mut answer)).await;
    lease.check_in(Outcome::Failed);
}

/// One task per router keeps its time: it lets dynos out of their quarantine.
async fn keep_time(router: Router) {
    loop {
        let moved = router.alarm_moved();
        match router.tick() {
            Some(next) => tokio::select! {
                () = sleep_until(next.into()) => {}
                () = moved => {}
            },
            None => moved.await,
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    // The app and its dynos: two that work, and one at whose address nobody listens. The idle dyno that came last
    // serves first, so it is the missing one that the first request is offered to.
    let nobody = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let addresses = [start_dyno().await?, start_dyno().await?, nobody];
    let app = AppSpec {
        id: "shout".into(),
        hosts: vec!["shout.test".into()],
        release: "v1".into(),
        limits: Limits::default(),
    };
    let mut changes = vec![Change::PutApp(app.clone())];
    for (address, name) in addresses.into_iter().zip(["web.1", "web.2", "web.3"]) {
        changes
            .push(Change::AddDyno(app.id.clone(), DynoSpec { name: name.into(), ..DynoSpec::new(address) }));
    }
    let router = Router::new();
    router.apply(&changes)?;
    tokio::spawn(keep_time(router.clone()));
    let shout = router.route("shout.test", "/")?;

    println!("Six requests at once, for two dynos:");
    let calls: Vec<_> = (1..=6)
        .map(|number| {
            let (router, shout) = (router.clone(), shout.clone());
            tokio::spawn(async move { call(&router, &shout, &format!("request {number}")).await })
        })
        .collect();
    for call in calls {
        println!("  {}", call.await??);
    }

    // Limits change while the app is in use; so do dynos. Neither disturbs a request.
    let limits = app.limits.clone().with_queue_max_wait(Duration::from_millis(50));
    let gone = Change::RemoveDyno(app.id.clone(), nobody);
    router.apply(&[Change::PutApp(AppSpec { limits, ..app }), gone])?;

    println!("Both dynos are taken, and a third request waits 50 ms at the most:");
    let first = wait(router.ticket(&shout, 0)?).await?;
    let second = wait(router.ticket(&shout, 0)?).await?;
    match call(&router, &shout, "too late").await {
        Ok(answer) => println!("  {answer}"),
        Err(fault) => println!("  {} {fault}, status {}", fault.code(), fault.status()),
    }

    println!("One is checked in, the other's lease is dropped; both are idle again:");
    first.check_in(Outcome::Unused);
    drop(second);
    println!("  {}", call(&router, &shout, "at last").await?);
    let (waiting, idle) = shout.gauges();
    println!("  {waiting} in line, {idle} idle");
    Ok(())
}

/// A server that can do one thing at a time: it takes the next connection when the one before has ended. A second
/// connection would hang for as long as the first is open; that is why the connection travels with the lease.
async fn start_dyno() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Err(error) = shout_back(BufStream::new(stream)).await {
                eprintln!("a connection broke: {error}");
            }
        }
    });
    Ok(address)
}

async fn shout_back(mut connection: Connection) -> io::Result<()> {
    let mut line = String::new();
    while connection.read_line(&mut line).await? > 0 {
        sleep(WORK).await;
        connection.write_all(line.to_uppercase().as_bytes()).await?;
        connection.flush().await?;
        line.clear();
    }
    Ok(())
}
