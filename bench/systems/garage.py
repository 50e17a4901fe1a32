"""Garage, where `garage` is on the path: three nodes on one machine, replication factor 3, LMDB, everything synced."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
from pathlib import Path
from typing import Final

from bench.systems.base import READY_TIMEOUT_S, S3Access, System, SystemFailed, free_port, program, wait_s

NODES: Final = 3

_CONF = """
metadata_dir = "{folder}/meta"
data_dir = "{folder}/data"
db_engine = "lmdb"
metadata_fsync = true
data_fsync = true
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

    @property
    def version(self) -> str:
        """As it says."""
        return subprocess.run([self._program, "--version"], capture_output=True, text=True, check=True).stdout.split()[
            1
        ]

    def start(self) -> None:
        """See System."""
        fresh = not (self.folder / "node0").exists()
        for node in range(NODES):
            self._start_node(node, fresh)
        if fresh:
            self._join()
        self.wait_http("/", (200, 403))

    def _start_node(self, node: int, fresh: bool) -> None:
        home = self.folder / f"node{node}"
        if fresh:
            home.mkdir()
            port = self.port if node == 0 else free_port()
            conf = _CONF.format(folder=home, rpc_port=free_port(), secret=self._secret, s3_port=port)
            (home / "garage.toml").write_text(conf)
        self.spawn([self._program, "-c", str(home / "garage.toml"), "server"], f"garage-{node}")

    def _join(self) -> None:
        """Make the nodes know each other, give each a zone, and make a key."""
        names = [self._ask(node, "node", "id", "-q").strip() for node in range(NODES)]
        for name in names[1:]:
            self._ask(0, "node", "connect", name)
        for node, name in enumerate(names):
            self._ask(0, "layout", "assign", "-z", f"z{node}", "-c", "20G", name.partition("@")[0])
        self._ask(0, "layout", "apply", "--version", "1")
        made = self._ask(0, "key", "create", "bench")
        found = re.search(r"Key ID:\s*(\S+).*?Secret key:\s*(\S+)", made, re.DOTALL)
        if found is None:
            raise SystemFailed(f"garage: no key in {json.dumps(made)}")
        self._ask(0, "key", "allow", "--create-bucket", found.group(1))
        self.s3 = S3Access(found.group(1), found.group(2), "garage")

    def _ask(self, node: int, *arguments: str) -> str:
        command = [self._program, "-c", str(self.folder / f"node{node}" / "garage.toml"), *arguments]
        for _ in range(int(READY_TIMEOUT_S)):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if not done.returncode:
                return done.stdout
            wait_s(1)
        raise SystemFailed(f"{' '.join(command)}: {done.stderr[-1000:]}")
