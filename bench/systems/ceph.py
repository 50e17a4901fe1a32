"""Ceph with its RADOS gateway, on one machine: a monitor, three bluestore OSDs on files, one gateway, size 3, min_size 2.

Debian's packages ceph-mon, ceph-osd, radosgw and ceph-common; no systemd, no manager (it serves the dashboard and the
autoscaler, and would only cost Ceph processor time). cephx is on, as by default. OSDs are their own failure domain, since
they share a host. A write is answered when all OSDs of the acting set have it in
their journal (bluestore's WAL, synced).

The gateway speaks Swift (v1 tokens) and S3.
"""

from __future__ import annotations

import subprocess
import time
import uuid
from pathlib import Path
from typing import Final

from bench.systems.base import READY_TIMEOUT_S, S3Access, System, SystemFailed, free_port, program, swift_token, wait_s

OSD_COUNT: Final = 3
OSD_BYTES: Final = 20 << 30
"""A sparse file for each OSD."""
ACCESS_KEY, SECRET_KEY = "BENCHBENCHBENCHBENCH", "benchbenchbenchbenchbenchbenchbenchbench"

_CONF = """
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon_port}
keyring = {folder}/keyring
osd pool default size = 3
osd pool default min size = 2
osd pool default pg num = 16
osd pool default pgp num = 16
osd crush chooseleaf type = 0
mon allow pool size one = false
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
debug ms = 0
debug osd = 0
debug bluestore = 0
debug rocksdb = 0
debug rgw = 0
[mon.a]
mon data = {folder}/mon.a
[osd]
osd data = {folder}/osd.$id
osd objectstore = bluestore
bluestore block size = {osd_bytes}
osd memory target = 1073741824
[client.rgw.bench]
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw dynamic resharding = false
rgw enable usage log = false
rgw enable ops log = false
"""


class Ceph(System):
    """Ceph RGW."""

    name = "ceph-rgw"
    answers_when = "3 of 3 OSDs have it in their synced write-ahead log"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        for name in ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph", "ceph-authtool", "monmaptool"):
            program(name)
        self._conf = folder / "ceph.conf"
        self._mon_port = free_port()
        self._osds: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def version(self) -> str:
        """As `ceph --version` says."""
        return self._run("ceph", "--version").split()[2]

    def start(self) -> None:
        """See System."""
        fresh = not self._conf.exists()
        if fresh:
            self._make_monitor()
        self.spawn([program("ceph-mon"), "-f", "-i", "a", "-c", str(self._conf)], "mon")
        if fresh:
            for number in range(OSD_COUNT):
                self._make_osd(number)
        for number in range(OSD_COUNT):
            self._start_osd(number)
        self._wait_for_osds()
        self.spawn([program("radosgw"), "-f", "-n", "client.rgw.bench", "-c", str(self._conf)], "rgw")
        self.wait_http("/", (200, 403, 404))
        if fresh:
            self._make_user()
        self.swift = swift_token(f"{self.base_url}/auth/v1.0", "bench:swift", SECRET_KEY)
        self.s3 = S3Access(ACCESS_KEY, SECRET_KEY, "default")

    def kill_node(self) -> None:
        """One OSD."""
        self.kill_one(self._osds.pop(0))
        # What the monitor would find out by itself in twenty seconds.
        self._run("ceph", "osd", "down", "0")

    def revive_node(self) -> None:
        """See System."""
        self._start_osd(0)
        self._wait_for_osds()

    # ----------------------------------------------------------------------------------------------------------- set-up

    def _make_monitor(self) -> None:
        fsid = str(uuid.uuid4())
        self._conf.write_text(
            _CONF.format(
                fsid=fsid, mon_port=self._mon_port, folder=self.folder, port=self.port, osd_bytes=OSD_BYTES
            ).lstrip()
        )
        self._make_keys()
        monmap = self.folder / "monmap"
        address = f"[v2:127.0.0.1:{self._mon_port}/0]"
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, str(monmap), bare=True)
        (self.folder / "mon.a").mkdir()
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", str(monmap), "--keyring", str(self.folder / "keyring"))

    def _make_keys(self) -> None:
        """One keyring with everybody's key: the monitor takes it in when it is made, the others read theirs there."""
        allowed = ("--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *")
        keyring = str(self.folder / "keyring")
        create = ["--create-keyring"]
        for name in ("mon.", "client.admin", "client.rgw.bench", *(f"osd.{number}" for number in range(OSD_COUNT))):
            self._run("ceph-authtool", *create, keyring, "--gen-key", "-n", name, *allowed, bare=True)
            create = []

    def _make_osd(self, number: int) -> None:
        osd_uuid = str(uuid.uuid4())
        (self.folder / f"osd.{number}").mkdir()
        self._run("ceph", "osd", "new", osd_uuid, str(number))
        self._run("ceph-osd", "--mkfs", "-i", str(number), "--osd-uuid", osd_uuid)

    def _start_osd(self, number: int) -> None:
        command = [program("ceph-osd"), "-f", "-i", str(number), "-c", str(self._conf)]
        self._osds[number] = self.spawn(command, f"osd-{number}")

    def _wait_for_osds(self) -> None:
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while f"{OSD_COUNT} up" not in self._run("ceph", "osd", "stat"):
            if time.monotonic() > deadline_s:
                raise SystemFailed(f"the OSDs do not come up: see {self.folder}")
            wait_s(0.5)

    def _make_user(self) -> None:
        admin = ("radosgw-admin", "-n", "client.rgw.bench")
        keys = ("--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY)
        self._run(*admin, "user", "create", "--uid=bench", "--display-name=bench", "--max-buckets=0", *keys)
        self._run(*admin, "subuser", "create", "--uid=bench", "--subuser=bench:swift", "--access=full")
        self._run(*admin, "key", "create", "--subuser=bench:swift", "--key-type=swift", f"--secret-key={SECRET_KEY}")

    def _run(self, name: str, *arguments: str, bare: bool = False) -> str:
        command = [program(name), *arguments] + ([] if bare else ["-c", str(self._conf)])
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=READY_TIMEOUT_S)
        if done.returncode:
            raise SystemFailed(f"{' '.join(command)}: {done.stderr[-2000:]}")
        return done.stdout
