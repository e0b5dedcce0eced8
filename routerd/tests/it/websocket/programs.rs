//! Clients and a server that others wrote: the library `websockets` of Python on both sides of the daemon, and the
//! client that comes with node.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::support::{DEADLINE, Rig, installed, until};

const SERVER: &str = r#"
import asyncio, sys, websockets
async def echo(ws):
    async for message in ws:
        await ws.send(message)
async def main():
    async with websockets.serve(echo, "127.0.0.1", int(sys.argv[1]), max_size=None):
        await asyncio.Future()
asyncio.run(main())
"#;

const CLIENT: &str = r#"
import asyncio, sys, websockets
async def one(url, number):
    async with websockets.connect(url, max_size=None) as ws:
        for size in (0, 1, 125, 126, 65535, 65536, 1 << 20):
            for message in (chr(97 + number % 26) * size, bytes(size)):
                await ws.send(message)
                assert await ws.recv() == message, size
        await (await ws.ping())
        await ws.close(4000 + number, "done")
    assert (ws.close_code, ws.close_reason) == (4000 + number, "done"), (ws.close_code, ws.close_reason)
async def stays(url):
    async with websockets.connect(url) as ws:
        print("open", flush=True)
        try:
            await ws.recv()
        except websockets.ConnectionClosed:
            pass
    print(ws.close_code, flush=True)
async def main():
    url = sys.argv[1]
    await asyncio.gather(*(one(url, number) for number in range(8)))
    await stays(url)
asyncio.run(main())
"#;

const NODE: &str = r#"
const ws = new WebSocket(process.argv[1]);
ws.onopen = () => ws.send("x".repeat(100000));
ws.onmessage = (event) => { if (event.data.length === 100000) ws.close(4321, "done"); };
ws.onclose = (event) => { console.log(event.code, event.wasClean); process.exit(event.code === 4321 ? 0 : 1); };
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_and_clients_that_others_wrote_speak_through_the_daemon() {
    if !installed("python3", &["-c", "import websockets"]) {
        return;
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = Command::new("python3")
        .args(["-c", SERVER, &port.to_string()])
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    until("the server listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
    let text = format!(
        "[server]\nlisten=['127.0.0.1:0']\nshutdown_timeout='2s'\n\
         [apps.shop]\ndynos=['127.0.0.1:{port}']\nqueue={{max_wait='20s'}}"
    );
    let mut rig = Rig::from_toml(&text).await;
    let url = format!("ws://{}/", rig.address);
    if installed(
        "node",
        &["--experimental-websocket", "-e", "new WebSocket('ws://127.0.0.1:1').onerror = () => {}"],
    ) {
        let node = Command::new("node")
            .args(["--experimental-websocket", "-e", NODE, &url])
            .kill_on_drop(true)
            .output();
        let node = timeout(DEADLINE, node).await.expect("node ends").unwrap();
        assert!(node.status.success(), "{node:?}");
        assert_eq!(String::from_utf8_lossy(&node.stdout).trim(), "4321 true");
    }
    let client = Command::new("python3")
        .args(["-c", CLIENT, &url])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    until("all but the last have ended", || rig.log.count() >= 8 && rig.app().dynos[0].upgraded == 1).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(rig.stop(Duration::from_secs(4)).await, 0);
    let client = timeout(DEADLINE, client.wait_with_output()).await.expect("the client ends").unwrap();
    assert!(client.status.success(), "{}", String::from_utf8_lossy(&client.stderr));
    assert_eq!(String::from_utf8_lossy(&client.stdout), "open\n1001\n");
    server.kill().await.unwrap();
}
