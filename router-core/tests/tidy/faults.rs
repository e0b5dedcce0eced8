//! The page about faults: the table of `fault.rs`, and what an operator makes of each code.

use router_core::fault::{Blame, Fault, Retry};

const HEAD: &str = "\
# Faults

When a request is not served well, its log line and the header `X-Router-Fault` of its answer have a code. This page
is made from `router-core/src/fault.rs` and held in step by a test; `UPDATE_DOCS=1 cargo test -p router-core --test
tidy` writes it anew. Codes with `H` mean what they mean at Heroku; `M` codes are our own.

*Blame* says whose doing it was. *Retry* says whether whoever got the fault may send the same request again: *later*
means that no dyno has seen the request; *if idempotent* that a dyno may have acted on it; *no* that it would fail
again. Status 499 stands in the log alone, because its client is gone.

";

/// What each code means, and what to do about it.
const PROSE: &[(&str, &str, &str)] = &[
    (
        "H10",
        "Every dyno of the app is down because its process died.",
        "Read the output of the app's processes. Requests are served again as soon as one dyno is up.",
    ),
    (
        "H11",
        "The line is too long: a bound on its requests or bytes is reached, the wait would be longer than \
         `queue.max_wait`, or it has been. The cause says which.",
        "Add dynos, or make requests faster: compare `service=` with what you expect. If waiting longer is better than \
         a refusal, raise `queue.max_wait` or `queue.max_requests_per_dyno`.",
    ),
    (
        "H12",
        "The dyno did not begin to answer within `timeouts.first_byte`. It counts as busy until it answers, closes, or \
         `timeouts.linger` is over.",
        "Find the slow request by its `path=` and `request_id=`. Move long work out of requests, and give the app a \
         time-out of its own that is shorter than the router's.",
    ),
    (
        "H13",
        "The dyno closed the connection without a byte of an answer.",
        "Look for a crash, a kill by the kernel (memory), or a worker time-out in the app's output at that moment.",
    ),
    ("H14", "The app has no dynos.", "Add dynos, or look why the DNS name of the app has no addresses."),
    (
        "H15",
        "The dyno fell silent in the middle of its answer for `timeouts.idle`.",
        "Let streams send something from time to time, or raise `timeouts.idle`.",
    ),
    (
        "H17",
        "What the dyno answered is not HTTP.",
        "See what listens on the dyno's port: often another protocol, or TLS where plain HTTP is expected.",
    ),
    (
        "H18",
        "The dyno closed the connection in the middle of its answer.",
        "As H13: a crash or a kill while the answer was sent. The client has got a part of it.",
    ),
    (
        "H19",
        "No dyno accepted the connection within `timeouts.connect`.",
        "Look at the network between router and dynos, and for dynos whose accept queue is full.",
    ),
    (
        "H20",
        "Every dyno of the app was still booting when the wait ran out.",
        "Make the app boot faster, or raise `timeouts.boot`. Start new dynos before old ones are taken away.",
    ),
    (
        "H21",
        "No dyno accepted the connection: each that was asked refused it.",
        "Check that the processes run and listen on the address and port that the router was told. With \
         `tls.to_dyno`, the daemon's own log says what is wrong with a dyno's certificate.",
    ),
    (
        "H22",
        "The router has as many client connections as it may have.",
        "Raise `server.max_connections` and the limit on open files, or add a router.",
    ),
    (
        "H24",
        "The router was shut down before the request had ended.",
        "Raise `server.shutdown_timeout` above the longest request, or make that request shorter.",
    ),
    (
        "H25",
        "The answer of the dyno breaks a limit: its head, a cookie, or Content-Length. The cause says which.",
        "Make the answer's headers smaller, or mend the length. The app has acted on the request.",
    ),
    (
        "H26",
        "The request breaks HTTP or a limit of the router. The cause says which; the status goes with it.",
        "Nothing, if strangers send it. If it is your own client, mend what the cause names.",
    ),
    (
        "H27",
        "The client went away before its answer was there, or in the middle of its request's head: then the line has \
         neither method nor path. A connection that ends between two requests leaves no line.",
        "Many of them mean that answers are too slow for those who wait: see `service=` and `queue=`.",
    ),
    (
        "H28",
        "The client fell silent in the middle of its request or its answer for `timeouts.idle`.",
        "Nothing, as a rule: slow or lost networks. Dynos are not held by it while buffers last.",
    ),
    (
        "H34",
        "Every dyno that is up is in quarantine, because none accepted a connection when it was last tried, or is out \
         because it is not well.",
        "As H21. A dyno is tried again by itself, at the latest when its quarantine is over.",
    ),
    (
        "H80",
        "The app is in maintenance: an operator has asked for it. Requests that were in line or at a dyno are served.",
        "Nothing, if it is meant. Else end the maintenance.",
    ),
    (
        "H99",
        "The router's own fault.",
        "Report it, with the log line. The app and the client have done nothing wrong.",
    ),
    (
        "M01",
        "No app has this host and path.",
        "Add the host to the app's `hosts`, or an app with the host `*` that takes what no other does.",
    ),
    (
        "M02",
        "The request names a host for which its TLS connection is not: neither the one that the client named in its \
         handshake, nor one in the certificate that it was shown.",
        "Nothing, if it is rare: the client asks again on another connection (RFC 9110 section 15.5.20). If the host \
         is yours, add it to the certificate.",
    ),
    (
        "M10",
        "The app's `rate_limit` allows no more requests now, or passwords were tried too often from the client's \
         address (`basic_auth`). `Retry-After` says when the next one is.",
        "Nothing, if strangers send them. If they are your own, raise `rate_limit`, or count by something that tells \
         your clients apart. Behind a proxy every client has the proxy's address unless `server.trusted_proxies` names \
         it.",
    ),
    (
        "M11",
        "The app's `allow` and `deny` do not let the client's address in.",
        "If it should be let in, change `allow` or `deny`. Behind a proxy every client has the proxy's address unless \
         `server.trusted_proxies` names it.",
    ),
    (
        "M12",
        "The client's address has `server.max_connections_per_ip` connections already.",
        "Nothing, if strangers open them. Behind a proxy, name it in `server.trusted_proxies`: then it is not counted.",
    ),
    (
        "M13",
        "The bodies of requests and answers that the router holds have reached `server.memory_max`, so it takes no \
         request with a body.",
        "Look for slow clients with large bodies. Lower `request_buffer` and `response_spool`, or raise \
         `server.memory_max` if the machine has the memory.",
    ),
    (
        "M14",
        "The app has `basic_auth`, and the request shows no name and password that it knows.",
        "Nothing, if strangers ask: browsers ask their user for both. `routerd password` makes a line for a new user.",
    ),
];

/// The page.
pub(crate) fn page() -> String {
    let mut page = String::from(HEAD);
    page.push_str("| code | in words | cause | status | blame | retry |\n|---|---|---|---|---|---|\n");
    for fault in Fault::ALL {
        let (code, desc, cause) = (fault.code(), fault.desc(), fault.cause().unwrap_or_default());
        let (status, blame, retry) = (fault.status(), blame(fault.blame()), retry(fault.retry()));
        page.push_str(&format!("| {code} | {desc} | {cause} | {status} | {blame} | {retry} |\n"));
    }
    page.push_str("\n## What each means, and what to do\n");
    let mut last = "";
    for fault in Fault::ALL {
        let code = fault.code();
        if code == last {
            continue;
        }
        last = code;
        let prose = PROSE.iter().find(|(known, _, _)| *known == code);
        let (_, means, action) =
            prose.unwrap_or_else(|| panic!("tests/tidy/faults.rs has no words for {code}"));
        page.push_str(&format!("\n### {code}: {}\n\n{means}\n\n*What to do:* {action}\n", fault.desc()));
    }
    for (code, _, _) in PROSE {
        let known = Fault::ALL.iter().any(|fault| fault.code() == *code);
        assert!(known, "tests/tidy/faults.rs explains {code}, which no fault has");
    }
    page
}

fn blame(blame: Blame) -> &'static str {
    match blame {
        Blame::Client => "client",
        Blame::App => "app",
        Blame::Router => "router",
    }
}

fn retry(retry: Retry) -> &'static str {
    match retry {
        Retry::No => "no",
        Retry::Later => "later",
        Retry::IfIdempotent => "if idempotent",
    }
}
