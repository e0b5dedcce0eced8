//! HTTP/2 with the programs that people use: curl, h2load, and gRPC's own client and server.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::{Dyno, Rig, installed};

/// Runs a program to its end and gives what it printed.
async fn run(program: &'static str, args: Vec<String>) -> String {
    let output = tokio::task::spawn_blocking(move || Command::new(program).args(args).output().unwrap());
    let output = output.await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{program}: {} {}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_speaks_with_a_router() {
    if !installed("curl", &["--http2-prior-knowledge", "--version"]) {
        return;
    }
    let dyno = Dyno::start().await;
    let rig = Rig::start_with(&[&dyno], "http2 = true", "").await;
    let url = format!("http://{}/?body=70000", rig.address);
    let write = "%{http_version} %{http_code} %{size_download}";
    let args = ["-sS", "--http2-prior-knowledge", "-o", "/dev/null", "-w", write, "-d", "a=1", &url];
    assert_eq!(run("curl", args.map(str::to_owned).to_vec()).await, "2 200 70000");
    // And the same listener still speaks HTTP/1.1.
    let args = ["-sS", "-o", "/dev/null", "-w", write, &url];
    assert_eq!(run("curl", args.map(str::to_owned).to_vec()).await, "1.1 200 70000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2load_finds_each_dyno_with_one_request_at_a_time() {
    if !installed("h2load", &["--version"]) {
        return;
    }
    let dynos = Dyno::several(4).await;
    let dynos: Vec<&Dyno> = dynos.iter().collect();
    let rig =
        Rig::start_with(&dynos, "http2 = true", "queue = { max_wait = '1m', standing_wait = '1m' }").await;
    let url = format!("http://{}/?body=20", rig.address);
    let args = ["-n", "4000", "-c", "8", "-m", "10", &url].map(str::to_owned).to_vec();
    let printed = run("h2load", args).await;
    assert!(printed.contains("4000 succeeded, 0 failed, 0 errored"), "{printed}");
    assert_eq!(dynos.iter().map(|dyno| dyno.asked()).sum::<usize>(), 4000);
    // That no two came at once, each dyno says when it is dropped.
    assert!(dynos.iter().all(|dyno| dyno.connections() == 1));
}

const SERVER: &str = r#"
import grpc, sys, time
from concurrent import futures
def say(request, context):
    if request == b"slow": time.sleep(1)
    if request == b"fail": context.abort(grpc.StatusCode.NOT_FOUND, "no such cart")
    context.set_trailing_metadata((("x-sum", str(len(request))),))
    return b"said " + request
def count(request, context):
    for number in range(int(request)): yield str(number).encode()
def talk(requests, context):
    for request in requests: yield b"heard " + request
handlers = grpc.method_handlers_generic_handler("shop.Cart", {
    "Say": grpc.unary_unary_rpc_method_handler(say),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "Talk": grpc.stream_stream_rpc_method_handler(talk)})
server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
server.add_generic_rpc_handlers((handlers,))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
sys.stdin.read()
"#;

const CLIENT: &str = r#"
import grpc, json, queue, sys
channel = grpc.insecure_channel(sys.argv[1], options=(("grpc.default_authority", "shop.test"),))
say = channel.unary_unary("/shop.Cart/Say")
out = {}
answer, call = say.with_call(b"hello", timeout=10)
out["say"] = answer.decode()
out["trailer"] = dict(call.trailing_metadata())["x-sum"]
def code(what):
    try: what(); return "OK"
    except grpc.RpcError as error: return error.code().name + ": " + error.details()
out["fail"] = code(lambda: say(b"fail", timeout=10))
out["large"] = len(say(b"x" * 2000000, timeout=10))
out["count"] = len(list(channel.unary_stream("/shop.Cart/Count")(b"500", timeout=10)))
asked = queue.Queue()
talk = channel.stream_stream("/shop.Cart/Talk")(iter(asked.get, None), timeout=10)
out["talk"] = []
for word in (b"one", b"two", b"three"):
    asked.put(word)
    out["talk"].append(next(talk).decode())
asked.put(None)
out["rest"] = len(list(talk))
busy = say.future(b"slow", timeout=10)
import time
time.sleep(0.3)
out["late"] = code(lambda: say(b"late", timeout=0.2))
out["busy"] = busy.result().decode()
other = grpc.insecure_channel(sys.argv[1], options=(("grpc.default_authority", "other.test"),))
out["nowhere"] = code(lambda: other.unary_unary("/shop.Cart/Say")(b"x", timeout=10))
print(json.dumps(out))
"#;

/// A program that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_goes_through_end_to_end() {
    if !installed("python3", &["-c", "import grpc"]) {
        return;
    }
    let mut python = Command::new("python3");
    python.args(["-c", SERVER]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut server = Server(python.spawn().unwrap());
    let mut port = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let rig = Rig::from_toml(&format!(
        "[server]\nlisten = ['127.0.0.1:0']\nhttp2 = true\n[apps.shop]\nhosts = ['shop.test']\nprotocol = 'h2c'\n\
         dynos = ['127.0.0.1:{}']\n",
        port.trim()
    ))
    .await;
    let args = ["-c", CLIENT, &rig.address.to_string()].map(str::to_owned).to_vec();
    let said: Value = serde_json::from_str(run("python3", args).await.trim()).unwrap();
    assert_eq!((said["say"].as_str(), said["trailer"].as_str()), (Some("said hello"), Some("5")));
    assert_eq!(said["fail"], "NOT_FOUND: no such cart");
    assert_eq!((said["large"].as_u64(), said["count"].as_u64()), (Some(2_000_005), Some(500)));
    assert_eq!(said["talk"], serde_json::json!(["heard one", "heard two", "heard three"]));
    assert_eq!((said["rest"].as_u64(), said["busy"].as_str()), (Some(0), Some("said slow")));
    assert!(said["late"].as_str().unwrap().starts_with("DEADLINE_EXCEEDED"), "{said}");
    assert!(said["nowhere"].as_str().unwrap().starts_with("UNIMPLEMENTED: M"), "{said}");
    rig.at_rest().await;
}
