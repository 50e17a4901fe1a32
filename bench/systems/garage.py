"""Garage, where `garage` is on the path: three nodes in three zones on one machine, replication factor 3, LMDB, all synced.

`metadata_fsync` and `data_fsync` are off by default and are switched on. Compression is on by default and is switched off:
no other system compresses, and the benchmark's bytes would only cost it the attempt. Requests go to the first node; each
node is a whole Garage with all metadata and all blocks, so that one of the others can be lost.
"""

from __future__ import annotations

import re
import secrets
import subprocess
from pathlib import Path
from typing import Final

from bench.systems.base import READY_TIMEOUT_S, S3Access, System, SystemFailed, free_port, program, wait_s

NODES: Final = 3
LOST: Final = 2
"""The node that is killed: not the one that is asked."""

_CONF = """
metadata_dir = "{folder}/meta"
data_dir = "{folder}/data"
db_engine = "lmdb"
metadata_fsync = true
data_fsync = true
compression_level = "none"
replication_factor = 3
rpc_bind_addr = "127.0.0.1:{rpc_port}"
rpc_public_addr = "127.0.0.1:{rpc_port}"
rpc_secret = "{secret}"
[s3_api]
s3_region = "garage"
api_bind_addr = "127.0.0.1:{s3_port}"
"""


class Garage(System):
    """Garage."""

    name = "garage"
    answers_when = "2 of 3 nodes have it, data and metadata fsynced (switched on: not its default)"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._program = program("garage")
        self._secret = secrets.token_hex(32)
        self._nodes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def version(self) -> str:
        """As it says."""
        return version_in(
            subprocess.run([self._program, "--version"], capture_output=True, text=True, check=True).stdout
        )

    def start(self) -> None:
        """See System."""
        there = len(list(self.folder.glob("node*")))
        for node in range(there or NODES):
            self._start_node(node)
        names = [self._name(node) for node in range(there or NODES)]
        for name in names[1:]:
            # Again after each start: Garage keeps its peers on disk, but not at once.
            self._ask(0, "node", "connect", name)
        if not there:
            self._join(names)
        self.wait_http("/", (200, 403))
        # The command line is answered at once; this needs a quorum.
        self._ask(0, "bucket", "list")

    def kill_node(self) -> None:
        """A node that is not asked."""
        self.kill_one(self._nodes.pop(LOST))

    def revive_node(self) -> None:
        """See System."""
        self._start_node(LOST)
        self._ask(LOST, "status")

    def begin_rebalance(self) -> None:
        """A fourth node in a zone of its own."""
        self._start_node(NODES)
        name = self._name(NODES)
        self._ask(0, "node", "connect", name)
        self._assign(NODES, name)
        self._ask(0, "layout", "apply", "--version", "2")

    # ----------------------------------------------------------------------------------------------------------- set-up

    def _start_node(self, node: int) -> None:
        home = self.folder / f"node{node}"
        if not home.exists():
            home.mkdir()
            port = self.port if node == 0 else free_port()
            conf = _CONF.format(folder=home, rpc_port=free_port(), secret=self._secret, s3_port=port)
            (home / "garage.toml").write_text(conf.lstrip())
        self._nodes[node] = self.spawn([self._program, "-c", str(home / "garage.toml"), "server"], f"garage-{node}")

    def _join(self, names: list[str]) -> None:
        """Give each node a zone, and make a key."""
        for node, name in enumerate(names):
            self._assign(node, name)
        self._ask(0, "layout", "apply", "--version", "1")
        made = self._ask(0, "key", "create", "bench")
        self.s3 = access_in(made)
        self._ask(0, "key", "allow", "--create-bucket", self.s3.access_key)

    def _name(self, node: int) -> str:
        """Its public key and its address."""
        return self._ask(node, "node", "id", "-q").strip()

    def _assign(self, node: int, name: str) -> None:
        self._ask(0, "layout", "assign", "-z", f"z{node}", "-c", "20G", name.partition("@")[0])

    def _ask(self, node: int, *arguments: str) -> str:
        """What the command line of a node prints; it's asked until the node is there."""
        command = [self._program, "-c", str(self.folder / f"node{node}" / "garage.toml"), *arguments]
        for _ in range(int(READY_TIMEOUT_S)):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if not done.returncode:
                return done.stdout
            wait_s(1)
        raise SystemFailed(f"{' '.join(command)}: {done.stderr[-1000:]}")


def version_in(said: str) -> str:
    """Of what `garage --version` prints: "garage v2.5.0 [features: …]", or "cargo:2.5.0" from a build by cargo."""
    return said.split()[1].removeprefix("cargo:").removeprefix("v")


def access_in(said: str) -> S3Access:
    """The key that `garage key create` prints. Raises SystemFailed."""
    found = re.search(r"Key ID:\s*(\S+).*?Secret key:\s*(\S+)", said, re.DOTALL)
    if found is None:
        raise SystemFailed(f"garage: no key in {said!r}")
    return S3Access(found.group(1), found.group(2), "garage")
