"""OpenStack Swift from PyPI, as a competent administrator would set it up on one small machine.

Four devices, each a node of its own at its own address with its account, container and object server (so that one node can
be killed); a zone a device; three replicas; fsync on (Swift's default since it has no switch any more: a PUT is answered
after fsync at two of three); one proxy with a worker for each core; tempauth and s3api; memcached, which here remembers
tokens and what containers there are. The background daemons are not started: they would only cost it processor time. Log
level is raised so that no request writes a log line.

Swift's own programs, in a virtual environment of its own, made at first use.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import venv
from importlib.resources import files
from pathlib import Path

from bench.systems.base import NotInstalled, S3Access, System, SystemFailed, free_port, program, swift_token

REQUIREMENTS = ("swift==2.38.3",)
DEVICE_COUNT = 4
PART_POWER = 10
REPLICAS = 3
USER, KEY = "bench:bench", "bench-key"


class Swift(System):
    """OpenStack Swift."""

    name = "swift"
    answers_when = "2 of 3 replicas are fsynced (listing rows follow, asynchronously if need be)"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._etc = folder / "etc"
        self._ports = {(kind, node): free_port() for kind in _KINDS for node in range(DEVICE_COUNT)}
        self._memcached_port = free_port()
        self._nodes: dict[int, list[subprocess.Popen[bytes]]] = {}
        self._home = _environment()

    @property
    def version(self) -> str:
        """Of the package in its environment."""
        return _output([str(self._home / "bin" / "python"), "-c", "import swift; print(swift.__version__)"])

    def start(self) -> None:
        """See System."""
        if not self._etc.exists():
            self._configure()
        self.spawn(
            [program("memcached"), "-u", "root", "-l", "127.0.0.1", "-p", str(self._memcached_port)], "memcached"
        )
        for node in range(DEVICE_COUNT):
            self._start_node(node)
        self.spawn([str(self._home / "bin" / "swift-proxy-server"), str(self._etc / "proxy-server.conf")], "proxy")
        self.wait_http("/healthcheck")
        self.swift = swift_token(f"{self.base_url}/auth/v1.0", USER, KEY)
        self.s3 = S3Access(USER, KEY)
        self.wait_http(self.swift.account_path, (200, 204), {"X-Auth-Token": self.swift.token})

    def kill_node(self) -> None:
        """The three servers of one node."""
        for process in self._nodes.pop(0):
            self.kill_one(process)

    def revive_node(self) -> None:
        """See System."""
        self._start_node(0)

    def put_names(self, container: str, count: int) -> None:
        """Rows merged into the container's database on each of its replicas, by Swift's own broker."""
        assert self.swift is not None
        script = files("bench.systems").joinpath("swift_rows.py")
        account = self.swift.account_path.rpartition("/")[2]
        arguments = [str(self._etc), str(self.folder / "nodes"), account, container, str(count)]
        # -P: beside that script lies a swift.py, this file.
        _run([str(self._home / "bin" / "python"), "-P", str(script), *arguments])

    # ----------------------------------------------------------------------------------------------------------- set-up

    def _start_node(self, node: int) -> None:
        self._nodes[node] = [
            self.spawn(
                [str(self._home / "bin" / f"swift-{kind}-server"), str(self._etc / f"{kind}-server-{node}.conf")],
                f"{kind}-{node}",
            )
            for kind in _KINDS
        ]

    def _configure(self) -> None:
        self._etc.mkdir(parents=True)
        (self.folder / "cache").mkdir()
        for node in range(DEVICE_COUNT):
            (self.folder / "nodes" / str(node) / f"d{node}").mkdir(parents=True)
        self._write("swift.conf", _SWIFT_CONF)
        self._write(
            "proxy-server.conf",
            _PROXY_CONF.format(etc=self._etc, port=self.port, workers=os.cpu_count(), memcached=self._memcached_port),
        )
        for kind in _KINDS:
            for node in range(DEVICE_COUNT):
                self._write(f"{kind}-server-{node}.conf", self._server_conf(kind, node))
            self._make_ring(kind)

    def _server_conf(self, kind: str, node: int) -> str:
        return _SERVER_CONF.format(
            kind=kind,
            etc=self._etc,
            port=self._ports[kind, node],
            devices=self.folder / "nodes" / str(node),
            cache=self.folder / "cache",
        )

    def _make_ring(self, kind: str) -> None:
        builder = str(self._home / "bin" / "swift-ring-builder")
        file = str(self._etc / f"{kind}.builder")
        _run([builder, file, "create", str(PART_POWER), str(REPLICAS), "0"])
        for node in range(DEVICE_COUNT):
            _run([builder, file, "add", f"r1z{node}-127.0.0.1:{self._ports[kind, node]}/d{node}", "100"])
        _run([builder, file, "rebalance", "1"], warnings=True)

    def _write(self, name: str, text: str) -> None:
        (self._etc / name).write_text(textwrap.dedent(text))


_KINDS = ("account", "container", "object")

_SWIFT_CONF = """
    [swift-hash]
    swift_hash_path_suffix = bench
    swift_hash_path_prefix = bench
    [storage-policy:0]
    name = default
    default = yes
    """

_PROXY_CONF = """
    [DEFAULT]
    swift_dir = {etc}
    bind_ip = 127.0.0.1
    bind_port = {port}
    workers = {workers}
    user = root
    log_level = ERROR
    [pipeline:main]
    pipeline = catch_errors healthcheck cache listing_formats bulk tempurl s3api tempauth copy slo dlo proxy-server
    [app:proxy-server]
    use = egg:swift#proxy
    account_autocreate = true
    [filter:catch_errors]
    use = egg:swift#catch_errors
    [filter:healthcheck]
    use = egg:swift#healthcheck
    [filter:cache]
    use = egg:swift#memcache
    memcache_servers = 127.0.0.1:{memcached}
    [filter:listing_formats]
    use = egg:swift#listing_formats
    [filter:bulk]
    use = egg:swift#bulk
    [filter:tempurl]
    use = egg:swift#tempurl
    [filter:s3api]
    use = egg:swift#s3api
    s3_acl = no
    location = us-east-1
    [filter:tempauth]
    use = egg:swift#tempauth
    user_bench_bench = bench-key .admin
    [filter:copy]
    use = egg:swift#copy
    [filter:slo]
    use = egg:swift#slo
    [filter:dlo]
    use = egg:swift#dlo
    """

_SERVER_CONF = """
    [DEFAULT]
    swift_dir = {etc}
    devices = {devices}
    mount_check = false
    bind_ip = 127.0.0.1
    bind_port = {port}
    workers = 1
    user = root
    log_level = ERROR
    recon_cache_path = {cache}
    [pipeline:main]
    pipeline = {kind}-server
    [app:{kind}-server]
    use = egg:swift#{kind}
    """


def _environment() -> Path:
    """The virtual environment that holds Swift, made if need be. Raises NotInstalled."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ringstead-swift-venv"
    home = Path(os.environ.get("RINGSTEAD_SWIFT_VENV", cache))
    if not (home / "bin" / "swift-proxy-server").exists():
        print(f"installing Swift into {home}", file=sys.stderr)
        venv.create(home, with_pip=True)
        install = [str(home / "bin" / "python"), "-m", "pip", "install", "-q", *REQUIREMENTS]
        if subprocess.run(install, check=False).returncode:
            raise NotInstalled("Swift can't be installed (it needs liberasurecode-dev to build pyeclib)")
    return home


def _run(command: list[str], *, warnings: bool = False) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # swift-ring-builder ends with 1 for a mere warning.
    if done.returncode and not (warnings and done.returncode == 1):
        raise SystemFailed(f"{' '.join(command)}: {done.stdout}{done.stderr}")


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
