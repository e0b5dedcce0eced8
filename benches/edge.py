#!/usr/bin/env python3
"""What a request and a handshake cost at the edge: CPU time of routerd, HAProxy and nginx, in turn, on the same servers.

Needs h2load (nghttp2-client), openssl, haproxy and nginx; builds nothing: `cargo build --profile dist --bin routerd`
first. Every number of requests and every time is bounded; nothing but loopback is used. Absolute times say little on a
small machine: compare the columns of one run.
"""
import argparse
import asyncio
import json
import os
import re
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time

TICK = os.sysconf("SC_CLK_TCK")


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_for(port):
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        except OSError:
            time.sleep(0.02)
    return False


def family(pid):
    """A process and its children."""
    out = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
    return [pid] + [int(child) for child in out]


def cpu(pid):
    """Seconds of CPU time of a process and its children, in user space and in the kernel."""
    total = 0
    for one in family(pid):
        with open(f"/proc/{one}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICK


def memory(pid):
    """Resident KiB of a process and its children."""
    total = 0
    for one in family(pid):
        with open(f"/proc/{one}/status") as status:
            total += sum(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    return total


class Place:
    """A folder with a certificate, servers behind ports of one nginx, and the proxies in front of them."""

    def __init__(self, args):
        self.args, self.dir, self.running = args, tempfile.mkdtemp(prefix="edge-"), []
        # The workers of nginx are somebody else.
        os.chmod(self.dir, 0o755)
        key, cert = self.path("key.pem"), self.path("cert.pem")
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", "/CN=edge.test", "-addext", "subjectAltName=DNS:edge.test,IP:127.0.0.1", "-keyout", key, "-out", cert],
            check=True, capture_output=True)
        with open(self.path("both.pem"), "w") as both:
            both.write(open(cert).read() + open(key).read())
        self.dynos = free_ports(args.dynos)
        self.servers()

    def path(self, name):
        return os.path.join(self.dir, name)

    def start(self, name, command, port):
        log = open(self.path(f"{name}.log"), "w")
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.running.append(child)
        if not wait_for(port):
            sys.exit(f"{name} does not listen on {port} within 10 s; it says: {open(log.name).read()}")
        return child.pid

    def nginx(self, name, body, port, workers=1):
        prefix = self.path(name)
        os.makedirs(prefix, exist_ok=True)
        temp = "".join(f"{kind}_temp_path {prefix}/{kind};\n"
                       for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
        with open(f"{prefix}/conf", "w") as conf:
            conf.write(f"daemon off;\npid {prefix}/pid;\nerror_log {prefix}/errors;\nworker_processes {workers};\n"
                       f"worker_rlimit_nofile 20000;\nevents {{ worker_connections 19000; }}\n"
                       f"http {{\nkeepalive_requests 100000000;\n{temp}{body}\n}}\n")
        return self.start(name, ["nginx", "-c", f"{prefix}/conf"], port)

    def servers(self):
        with open(self.path("big"), "wb") as big:
            big.write(b"x" * (6 << 20))
        listens = "".join(f"server {{ listen 127.0.0.1:{port}; access_log off;\nlocation /big {{ root {self.dir}; }}\n"
                          f"location / {{ return 200 'hello from behind the proxy'; }} }}\n" for port in self.dynos)
        self.nginx("dynos", listens, self.dynos[-1])

    def routerd(self):
        plain, tls = free_ports(2)
        dynos = ", ".join(f"'127.0.0.1:{port}'" for port in self.dynos)
        with open(self.path("routerd.toml"), "w") as conf:
            conf.write(f"[server]\nlisten = ['127.0.0.1:{plain}']\nthreads = {self.args.threads}\n"
                       f"keepalive_requests = 100000000\nhttp2 = false\n"
                       f"[tls]\nlisten = ['127.0.0.1:{tls}']\n"
                       f"certificates = [{{ cert = '{self.path('cert.pem')}', key = '{self.path('key.pem')}' }}]\n"
                       f"[apps.edge]\ndynos = [{dynos}]\nqueue = {{ max_wait = '30s', max_requests_per_dyno = 200 }}\n"
                       + ("response_disk = '8MiB'\ndisk_max = '12GiB'\n" if self.args.spool == "disk"
                          else "response_spool = '8MiB'\n"))
        pid = self.start("routerd", [self.args.routerd, "run", "--config", self.path("routerd.toml")], plain)
        return Proxy("routerd", pid, plain, tls)

    def haproxy(self):
        plain, tls = free_ports(2)
        servers = "".join(f" server d{n} 127.0.0.1:{port} maxconn 1\n" for n, port in enumerate(self.dynos))
        with open(self.path("haproxy.cfg"), "w") as conf:
            conf.write(f"global\n nbthread {self.args.threads}\n maxconn 9900\n log stdout format raw local0\n"
                       f"defaults\n mode http\n log global\n option httplog\n timeout client 60s\n timeout server 60s\n"
                       f" timeout connect 5s\n timeout queue 30s\n http-reuse always\n"
                       f"frontend f\n bind 127.0.0.1:{plain}\n"
                       f" bind 127.0.0.1:{tls} ssl crt {self.path('both.pem')} alpn h2,http/1.1\n"
                       f" default_backend b\nbackend b\n balance leastconn\n{servers}")
        return Proxy("HAProxy", self.start("haproxy", ["haproxy", "-db", "-f", self.path("haproxy.cfg")], plain), plain, tls)

    def front(self):
        plain, tls = free_ports(2)
        servers = "".join(f"server 127.0.0.1:{port};\n" for port in self.dynos)
        body = (f"access_log {self.path('nginx.access')};\nupstream b {{ {servers} keepalive {len(self.dynos)};\n"
                f"keepalive_requests 100000000; }}\n"
                f"server {{ listen 127.0.0.1:{plain}; listen 127.0.0.1:{tls} ssl http2;\n"
                f"ssl_certificate {self.path('cert.pem')}; ssl_certificate_key {self.path('key.pem')};\n"
                f"ssl_protocols TLSv1.2 TLSv1.3;\n"
                f"location / {{ proxy_pass http://b; proxy_http_version 1.1; proxy_set_header Connection '';\n"
                f"proxy_set_header Host $host; }} }}")
        return Proxy("nginx", self.nginx("front", body, plain, self.args.threads), plain, tls)

    def end(self):
        for child in self.running:
            child.terminate()
        for child in self.running:
            child.wait(10)
        shutil.rmtree(self.dir, ignore_errors=True)


class Proxy:
    def __init__(self, name, pid, plain, tls):
        self.name, self.pid, self.plain, self.tls = name, pid, plain, tls


def h2load(args, url, more):
    command = ["h2load", "-n", str(args.requests), "-t", "1", *more, url]
    out = subprocess.run(command, capture_output=True, text=True, timeout=300).stdout
    good = re.search(r"(\d+) succeeded, (\d+) failed", out)
    rate = re.search(r"finished in [^,]+, ([\d.]+) req/s", out)
    if not good or not rate or int(good[1]) != args.requests:
        sys.exit(f"{' '.join(command)}:\n{out}")
    return args.requests, float(rate[1])


def handshakes(args, port, version):
    """New connections without resumption, by two clients at once."""
    command = ["openssl", "s_time", "-connect", f"127.0.0.1:{port}", "-new", "-time", str(args.seconds), version]
    clients = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) for _ in range(2)]
    begun, total = time.monotonic(), 0
    for client in clients:
        out = client.communicate(timeout=args.seconds + 30)[0]
        total += int(re.search(r"(\d+) connections in \d+ real seconds", out)[1])
    return total, total / (time.monotonic() - begun)


SCENARIOS = {
    "HTTP/1.1": lambda args, p: h2load(args, f"http://127.0.0.1:{p.plain}/", ["--h1", "-c", "16"]),
    "HTTP/1.1, TLS": lambda args, p: h2load(args, f"https://127.0.0.1:{p.tls}/", ["--h1", "-c", "16"]),
    "HTTP/2, TLS": lambda args, p: h2load(args, f"https://127.0.0.1:{p.tls}/", ["-c", "4", "-m", "4"]),
    "handshakes, TLS 1.3": lambda args, p: handshakes(args, p.tls, "-tls1_3"),
    "handshakes, TLS 1.2": lambda args, p: handshakes(args, p.tls, "-tls1_2"),
}


async def crowd(args, proxy):
    """Idle connections with TLS and slow readers of 6 MiB: what they cost in memory, and what they do to others."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    gate, doors, begun = asyncio.Semaphore(64), asyncio.Semaphore(16), []

    async def idle():
        async with gate:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.tls, ssl=context)
            writer.write(b"GET / HTTP/1.1\r\nHost: edge.test\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            return reader, writer

    async def slow():
        mine = socket.socket()
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        mine.setblocking(False)
        await asyncio.get_running_loop().sock_connect(mine, ("127.0.0.1", proxy.plain))
        reader, writer = await asyncio.open_connection(sock=mine, limit=1024)
        async with doors:
            writer.write(b"GET /big HTTP/1.1\r\nHost: edge.test\r\n\r\n")
            begin = await reader.read(512)
        if not begin.startswith(b"HTTP/1.1 200"):
            return
        begun.append(begin)
        while await reader.read(512):
            await asyncio.sleep(1)

    async def ordinary():
        """The time of requests one after another on one connection, in ms; at most 10 s."""
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.plain)
        times, end = [], time.monotonic() + 10
        while len(times) < 1000 and time.monotonic() < end:
            begun = time.perf_counter()
            writer.write(b"GET / HTTP/1.1\r\nHost: edge.test\r\n\r\n")
            try:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
                await reader.readexactly(int(re.search(rb"content-length: *(\d+)", head, re.I)[1]))
            except (asyncio.TimeoutError, asyncio.IncompleteReadError, ConnectionError):
                break
            times.append((time.perf_counter() - begun) * 1e3)
        writer.close()
        if len(times) < 100:
            return {"answers": len(times)}
        times.sort()
        return {"answers": len(times), "p50_ms": times[len(times) // 2], "p99_ms": times[len(times) * 99 // 100]}

    quiet, empty = await ordinary(), memory(proxy.pid)
    connections = await asyncio.gather(*[idle() for _ in range(args.idle)])
    with_idle = await ordinary()
    # What a proxy gives back of connections that it takes for idle, it gives back in some seconds.
    await asyncio.sleep(8)
    full = memory(proxy.pid)
    readers = [asyncio.create_task(slow()) for _ in range(args.slow)]
    end = time.monotonic() + 30
    while len(begun) < args.slow and time.monotonic() < end:
        await asyncio.sleep(0.1)
    await asyncio.sleep(3)
    slowed, with_slow = memory(proxy.pid), await ordinary()
    for reader in readers:
        reader.cancel()
    for _, writer in connections:
        writer.transport.abort()
    return {"proxy": proxy.name, "idle_kib": (full - empty) / args.idle, "slow_kib": (slowed - full) / max(len(begun), 1),
            "begun": len(begun), "quiet": quiet, "with_idle": with_idle, "with_slow": with_slow}


def show_crowd(args, place):
    """Each proxy alone, started anew."""
    def wait(found):
        return f"{found['p50_ms']:.2f} / {found['p99_ms']:.2f}" if "p50_ms" in found else f"{found['answers']} answers in 10 s"
    rows, starts = [], [place.routerd, place.haproxy, place.front]
    if args.idle + args.slow >= 9900:
        # It wants two files for each connection that it is told of, and does not start without.
        print(f"HAProxy is left out: it does not start with {args.idle + args.slow} connections and 20,000 files")
        starts.remove(place.haproxy)
    for start in starts:
        proxy = start()
        print(f"crowd: {proxy.name}", file=sys.stderr)
        rows.append(asyncio.run(crowd(args, proxy)))
        place.running.pop().terminate()
    print(f"| {args.idle} idle with TLS, {args.slow} slow readers of 6 MiB | KiB an idle one | KiB a slow one "
          "| p50 / p99 ms quiet | beside the idle | beside the slow too |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(f"| {row['proxy']} | {row['idle_kib']:.1f} | {row['slow_kib']:.0f} | {wait(row['quiet'])} "
              f"| {wait(row['with_idle'])} | {wait(row['with_slow'])} ({row['begun']} slow ones got an answer) |")
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--routerd", default="target/dist/routerd", help="the routerd to start [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of everything; medians are shown [%(default)s]")
    parser.add_argument("--requests", type=int, default=20000, help="requests of a run [%(default)s]")
    parser.add_argument("--seconds", type=int, default=3, help="seconds of handshakes [%(default)s]")
    parser.add_argument("--threads", type=int, default=1, help="threads or workers of each proxy [%(default)s]")
    parser.add_argument("--dynos", type=int, default=16, help="servers behind them [%(default)s]")
    parser.add_argument("--crowd", action="store_true", help="instead: idle connections and slow readers")
    parser.add_argument("--idle", type=int, default=8000, help="idle connections of --crowd [%(default)s]")
    parser.add_argument("--slow", type=int, default=1000, help="slow readers of --crowd [%(default)s]")
    parser.add_argument("--spool", choices=["disk", "memory"], default="disk",
                        help="where routerd keeps answers for slow readers; on disk half of the files that a process "
                             "may open are left to clients [%(default)s]")
    parser.add_argument("--json", help="write every single figure to this file")
    args = parser.parse_args()
    missing = [name for name in ["h2load", "openssl", "haproxy", "nginx"] if not shutil.which(name)]
    if missing:
        sys.exit(f"not installed: {', '.join(missing)}")
    if not os.access(args.routerd, os.X_OK):
        sys.exit(f"{args.routerd} is not there: cargo build --profile dist --bin routerd, or --routerd PATH")
    place, figures = Place(args), []
    if args.crowd:
        try:
            figures = show_crowd(args, place)
        finally:
            place.end()
        if args.json:
            with open(args.json, "w") as out:
                json.dump(figures, out, indent=1)
        return
    try:
        proxies = [place.routerd(), place.haproxy(), place.front()]
        for round_ in range(args.rounds):
            for scenario, run in SCENARIOS.items():
                for proxy in proxies:
                    print(f"round {round_ + 1} of {args.rounds}: {scenario}, {proxy.name}", file=sys.stderr)
                    before = cpu(proxy.pid)
                    count, rate = run(args, proxy)
                    each = (cpu(proxy.pid) - before) / count * 1e6
                    figures.append({"scenario": scenario, "proxy": proxy.name, "cpu_us": each, "rate": rate,
                                    "rss_kib": memory(proxy.pid)})
    finally:
        place.end()
    if args.json:
        with open(args.json, "w") as out:
            json.dump(figures, out, indent=1)
    print("| CPU us each (a second) | " + " | ".join(p.name for p in proxies) + " | routerd / HAProxy |")
    print("|---|" + "---|" * (len(proxies) + 1))
    for scenario in SCENARIOS:
        def median(name, key):
            return statistics.median(f[key] for f in figures if f["scenario"] == scenario and f["proxy"] == name)
        cells = [f"{median(p.name, 'cpu_us'):.1f} ({median(p.name, 'rate'):,.0f})" for p in proxies]
        ratio = median("routerd", "cpu_us") / median("HAProxy", "cpu_us")
        print(f"| {scenario} | {' | '.join(cells)} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
