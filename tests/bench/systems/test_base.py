"""bench.systems.base: what is killed is dead with all that belongs to it."""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path

from bench.systems.base import System

GONE_MS = 30_000


class Workers(System):
    """A server whose worker outlives it, unless it is killed too."""

    name = "workers"

    @property
    def version(self) -> str:
        return "1"

    def start(self) -> None:
        """See System."""
        self.server = self.spawn(
            [sys.executable, "-c", "import os, signal; print(os.fork(), flush=True); signal.pause()"], "server"
        )


def test_a_killed_node_is_dead_with_its_workers(tmp_path: Path) -> None:
    """A worker that goes on serving would make a dead node look well."""
    with Workers(tmp_path) as system:
        log = tmp_path / "server.log"
        poll = select.poll()
        while len(log.read_text().split()) < 2:
            poll.poll(10)
        child = os.pidfd_open(max(int(word) for word in log.read_text().split()))
        system.kill_one(system.server)
        poll.register(child, select.POLLIN)
        assert poll.poll(GONE_MS)
        os.close(child)
        assert system.usage().process_count == 0
