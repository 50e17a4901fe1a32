"""A system under test: started, asked for what it costs, stopped.

Processor seconds and memory come from /proc, over the whole tree of processes that the system started, so that nothing that
it does beside its answers is left out.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tree of processes has used up to now."""

    cpu_s: float
    pss_bytes: int
    written_bytes: int


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def tree_of(root: int) -> list[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):
                text = Path(f"/proc/{entry}/stat").read_text()
                parent = int(text.rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry))
    found = [root]
    for process in found:
        found += children.get(process, [])
    return found


def usage_of(root: int) -> Usage:
    """Processor seconds, memory (PSS) and bytes sent to the disk of a tree of processes."""
    cpu = pss = written = 0
    for process in tree_of(root):
        with suppress(OSError):
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            cpu += int(fields[11]) + int(fields[12])
            for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    pss += int(line.split()[1]) * 1024
            for line in Path(f"/proc/{process}/io").read_text().splitlines():
                if line.startswith("write_bytes:"):
                    written += int(line.split()[1])
    return Usage(cpu / _TICKS, pss, written)


class Ringstead:
    """A cluster of ours, as `ringstead up` starts it."""

    name = "ringstead"

    def __init__(self, data: Path, *options: str) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "ringstead", "up", "--data", str(data), "--port", str(self.port), *options]
        self._log = (data.parent / "up.log").open("w")
        self._process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)
        self._credentials = data / "credentials.env"
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.token = ""
        self.account_path = ""

    def wait_ready(self, attempts: int = 600) -> None:
        """Until it answers and has given us a token."""
        pause = subprocess.Popen
        for _ in range(attempts):
            if self._process.poll() is not None:
                raise RuntimeError(f"the cluster ended with {self._process.returncode}: see {self._log.name}")
            with suppress(OSError), urllib.request.urlopen(f"{self.base_url}/healthcheck", timeout=2) as answer:
                if answer.status == 200 and self._credentials.exists():
                    self._authenticate()
                    return
            pause(["sleep", "0.1"]).wait()
        raise RuntimeError(f"the cluster did not become ready: see {self._log.name}")

    def _authenticate(self) -> None:
        values = dict(
            line.removeprefix("export ").split("=", 1)
            for line in self._credentials.read_text().splitlines()
            if line.startswith("export ")
        )
        unquoted = {name: shlex.split(value)[0] for name, value in values.items()}
        request = urllib.request.Request(
            unquoted["ST_AUTH"], headers={"X-Auth-User": unquoted["ST_USER"], "X-Auth-Key": unquoted["ST_KEY"]}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            self.token = answer.headers["X-Auth-Token"]
            self.account_path = "/" + answer.headers["X-Storage-Url"].split("/", 3)[3]

    def usage(self) -> Usage:
        """Of all its processes."""
        return usage_of(self._process.pid)

    def __enter__(self) -> Ringstead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)
        self._log.close()
