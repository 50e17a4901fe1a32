"""SeaweedFS, where `weed` is on the path: a master, three volume servers, a filer with its S3 gateway; three copies.

Replication 002 means two more copies on other servers of the same rack; a write waits for all three. Nothing is synced by
default: a rule of the filer (`fs.configure -fsync`) has each chunk synced on each of its volume servers before it
is acknowledged, requests of one volume in batches, and the row in the filer's leveldb after it. The filer is one, with one
database: its rows are not replicated. A DELETE is answered when the row is gone; the chunks go later.

Its gRPC ports are ten thousand above the others: the gateway inside the filer assumes so. Telemetry, the Iceberg and the
Lance port are off.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from bench.systems.base import READY_TIMEOUT_S, S3Access, System, SystemFailed, free_port, program, wait_s

ACCESS_KEY, SECRET_KEY = "benchkey", "benchsecret"
VOLUME_SERVERS: Final = 3
HERE: Final = ("-ip", "127.0.0.1")
GRPC_ABOVE: Final = 10_000
BUCKETS: Final = "/buckets/"
RULE: Final = f"fs.configure -locationPrefix={BUCKETS} -replication=002 -fsync -apply\n"


class Seaweedfs(System):
    """SeaweedFS."""

    name = "seaweedfs"
    answers_when = "3 of 3 volume servers have it fsynced, and the one filer its row (switched on: not its default)"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._program = program("weed")
        self._master, self._filer, *self._volume_ports = (_free_port() for _ in range(VOLUME_SERVERS + 2))
        self._volumes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def version(self) -> str:
        """As it says."""
        return version_in(subprocess.run([self._program, "version"], capture_output=True, text=True, check=True).stdout)

    def start(self) -> None:
        """See System."""
        fresh = not (self.folder / "master").exists()
        for name in ("master", "filer", *(f"volume{number}" for number in range(VOLUME_SERVERS))):
            (self.folder / name).mkdir(exist_ok=True)
        self._start_master()
        for number in range(VOLUME_SERVERS):
            self._start_volume(number)
        self._wait_for_volumes(VOLUME_SERVERS)
        self._start_filer()
        self.wait_http("/", (200, 403))
        if fresh:
            self._configure()
        self.s3 = S3Access(ACCESS_KEY, SECRET_KEY)

    def kill_node(self) -> None:
        """One volume server. A write that finds fewer than three is refused: SeaweedFS has no quorum."""
        self.kill_one(self._volumes.pop(0))

    def revive_node(self) -> None:
        """See System."""
        self._start_volume(0)
        self._wait_for_volumes(VOLUME_SERVERS)

    # ----------------------------------------------------------------------------------------------------------- set-up

    def _start_master(self) -> None:
        where = ["-mdir", str(self.folder / "master"), "-peers", "none", "-telemetry=false"]
        copies = ["-defaultReplication", "002", "-volumeSizeLimitMB", "1024"]
        self.spawn([self._program, "master", *HERE, "-port", str(self._master), *where, *copies], "master")

    def _start_volume(self, number: int) -> None:
        where = ["-dir", str(self.folder / f"volume{number}"), "-max", "200", "-master", f"127.0.0.1:{self._master}"]
        port = ["-port", str(self._volume_ports[number])]
        command = [self._program, "volume", *HERE, *port, *where, "-preStopSeconds", "0"]
        self._volumes[number] = self.spawn(command, f"volume-{number}")

    def _start_filer(self) -> None:
        identity = {
            "name": "bench",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        config = self.folder / "s3.json"
        config.write_text(json.dumps({"identities": [identity]}))
        where = ["-master", f"127.0.0.1:{self._master}", "-defaultStoreDir", str(self.folder / "filer")]
        gateway = ["-s3", "-s3.port", str(self.port), "-s3.port.grpc", str(free_port()), "-s3.config", str(config)]
        others = ["-s3.port.iceberg", "0", "-s3.port.lance", "0"]
        self.spawn([self._program, "filer", *HERE, "-port", str(self._filer), *where, *gateway, *others], "filer")

    def _wait_for_volumes(self, count: int) -> None:
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while self._volumes_seen() < count:
            if time.monotonic() > deadline_s:
                raise SystemFailed(f"seaweedfs: the volume servers do not join: see {self.folder}")
            wait_s(0.2)

    def _volumes_seen(self) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._master}/dir/status", timeout=5) as answer:
                return nodes_in(json.load(answer))
        except OSError:
            return 0

    def _configure(self) -> None:
        """The rule that has everything synced; whether it is kept is asked, since the shell does not fail."""
        filer = f"127.0.0.1:{self._filer}"
        command = [self._program, "shell", "-master", f"127.0.0.1:{self._master}", "-filer", filer]
        done = subprocess.run(command, input=RULE, capture_output=True, text=True, check=False, timeout=READY_TIMEOUT_S)
        kept = subprocess.run(
            command, input="fs.configure\n", capture_output=True, text=True, check=False, timeout=READY_TIMEOUT_S
        )
        if not syncs_everything(kept.stdout):
            raise SystemFailed(f"seaweedfs: fsync could not be switched on: {done.stdout} {done.stderr[-1000:]}")


def version_in(said: str) -> str:
    """Of what `weed version` prints: "version 30GB 4.53 COMMIT linux amd64"."""
    return said.split()[2]


def nodes_in(status: dict[str, Any]) -> int:
    """Volume servers in the master's answer to /dir/status: data centers hold racks, racks hold them."""
    centers = status["Topology"].get("DataCenters") or []
    racks = [rack for center in centers for rack in center.get("Racks") or []]
    return sum(len(rack.get("DataNodes") or []) for rack in racks)


def syncs_everything(said: str) -> bool:
    """Whether the rules that `fs.configure` prints (JSON, between lines of the shell) have what is in buckets synced."""
    try:
        rules = json.loads(said[said.index("{") : said.rindex("}") + 1])
    except ValueError:
        return False
    of_buckets = [rule for rule in rules.get("locations", []) if rule.get("locationPrefix") == BUCKETS]
    return any(rule.get("fsync") is True for rule in of_buckets)


def _free_port() -> int:
    """A free port whose gRPC port is free too."""
    while True:
        port = free_port()
        with suppress(OSError, OverflowError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port + GRPC_ABOVE))
            return port
