"""Who takes turns: redis-server itself, and before it sidecache, twemproxy (nutcracker), HAProxy and Envoy.

All listen on the loopback interface, work with one thread, keep their connections to the server open, and log nothing
per command. What else is set is set for one reason each, told where it stands.
"""

import os
import resource
import sys
import urllib.request
from pathlib import Path

from processes import ROOT, Cpu, Process, free_port, info, program, version

ENVOY = Path(os.environ.get("ENVOY_BIN", ROOT / ".deps/envoy"))
TITLES = {
    "redis": "direct",
    "sidecache": "sidecache",
    "sidecache-off": "sidecache, cache off",
    "twemproxy": "twemproxy",
    "haproxy": "HAProxy (TCP)",
    "envoy": "Envoy",
}
# Beyond the 10,000 that the largest workload opens: room for those that are being closed.
MAX_CLIENTS = 12_000


class Targets:
    """The processes of a run by name; ended together."""

    def __init__(self, folder):
        self.folder, self.processes, self.admins = folder, {}, {}
        # Commands of our own at the servers, which are nobody's.
        self.asked = 0
        # As many files as the system allows: each of 10,000 connections is one, through HAProxy two.
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.files = hard

    def __getitem__(self, name):
        return self.processes[name]

    def servers(self):
        """The upstream: one redis-server, or the masters of a cluster."""
        return [process for name, process in self.processes.items() if name.startswith("redis")]

    def add(self, name, args, port, kind=Process):
        self.processes[name] = kind(name, args, self.folder, port)

    def restart(self, name):
        """A fresh start after a failure, so that it does not reach into the next workload."""
        self.processes[name].end()
        self.processes[name].start()

    def end(self):
        for process in self.processes.values():
            process.end()

    def counters(self, name):
        """CPU of a target, CPU of its upstream, and commands executed upstream."""
        servers = self.servers()
        calls = sum(int(info(server.port, "stats")["total_commands_processed"]) for server in servers) - self.asked
        # INFO and the QUIT behind it.
        self.asked += 2 * len(servers)
        return self.processes[name].cpu(), sum((server.cpu() for server in servers), Cpu(0, 0, 0)), calls

    def hits(self, name):
        """Reads that a sidecache has served from memory, and reads in all, by its own count."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admins[name]}/metrics", timeout=30) as response:
            lines = response.read().decode().splitlines()
        reads = [line for line in lines if line.startswith("sidecache_commands_total{")]
        reads = [line for line in reads if 'class="read"' in line or 'class="mget"' in line]
        count = lambda those: sum(float(line.rsplit(" ", 1)[1]) for line in those)
        return count(line for line in reads if 'outcome="hit"' in line), count(reads)

    def start_redis(self):
        port = free_port()
        args = [program("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.add("redis", [*args, "--maxclients", str(MAX_CLIENTS), "--tcp-backlog", "4096"], port)

    def start_twemproxy(self):
        # A deeper backlog than 512, since 10,000 clients come at once.
        port = free_port()
        (self.folder / "nutcracker.yml").write_text(
            f"bench:\n  listen: 127.0.0.1:{port}\n  redis: true\n  hash: fnv1a_64\n  distribution: ketama\n"
            f"  preconnect: true\n  server_connections: 1\n  backlog: 4096\n  tcpkeepalive: true\n"
            f"  servers:\n   - 127.0.0.1:{self['redis'].port}:1\n"
        )
        args = [program("nutcracker"), "-c", "nutcracker.yml", "-a", "127.0.0.1", "-s", str(free_port())]
        self.add("twemproxy", args, port)

    def start_haproxy(self):
        # It does not start with more connections than it has files for: two each.
        port, most = free_port(), min(MAX_CLIENTS, (self.files - 100) // 2)
        (self.folder / "haproxy.cfg").write_text(
            f"global\n  nbthread 1\n  maxconn {most}\n"
            f"defaults\n  mode tcp\n  maxconn {most}\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n"
            f"frontend clients\n  bind 127.0.0.1:{port} backlog 4096\n  default_backend redis\n"
            f"backend redis\n  server redis 127.0.0.1:{self['redis'].port}\n"
        )
        self.add("haproxy", [program("haproxy"), "-db", "-f", "haproxy.cfg"], port)

    def start_envoy(self, config, node):
        """One worker; `node` is put into its configuration as the server's port."""
        if not ENVOY.exists():
            sys.exit(f"no {ENVOY}; scripts/deps.sh bench installs it")
        port = free_port()
        text = (ROOT / "benches" / config).read_text()
        (self.folder / "envoy.yaml").write_text(text.replace("LISTEN", str(port)).replace("NODE", str(node)))
        args = [str(ENVOY), "-c", "envoy.yaml", "--concurrency", "1", "--use-dynamic-base-id", "-l", "warn"]
        self.add("envoy", args, port)

    def start_sidecaches(self, program, url):
        """One with its cache on and one with it off; all else as it comes, but for the number of clients."""
        for name, mode in [("sidecache", "tracking"), ("sidecache-off", "off")]:
            port, self.admins[name] = free_port(), free_port()
            (self.folder / f"{name}.toml").write_text(
                f'threads = 1\n[client]\nlisten = ["127.0.0.1:{port}"]\nmax_clients = {MAX_CLIENTS}\n'
                f'[upstream]\nurl = "{url}"\n[admin]\nlisten = "127.0.0.1:{self.admins[name]}"\n'
                f'[cache]\nmode = "{mode}"\n'
            )
            self.add(name, [str(program), "--config", f"{name}.toml"], port)


def versions(sidecache):
    return {
        "sidecache": version(str(sidecache), "--version"),
        "redis": version(program("redis-server"), "--version"),
        "twemproxy": version(program("nutcracker"), "--version"),
        "haproxy": version(program("haproxy"), "-v"),
        "envoy": version(str(ENVOY), "--version"),
    }
