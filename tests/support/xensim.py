"""A real `ringstead xensim` process for tests, and its control interface."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Xensim:
    """A simulator that runs."""

    process: subprocess.Popen[str]
    urls: list[str]
    """Of each host; the master of the first pool first."""
    certificate: str | None
    """The file of its certificate, with --tls."""

    def control(self, method: str, path: str, wish: Any = None, *, at: int = 0) -> Any:
        """Ask the control interface at one of the hosts."""
        body = None if wish is None else json.dumps(wish).encode()
        request = urllib.request.Request(f"{self.urls[at]}/_sim{path}", data=body, method=method)
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)


@contextlib.contextmanager
def running_xensim(*options: str) -> Iterator[Xensim]:
    """Start a simulator at free ports, and end it with the block. It writes all it says before it is ready."""
    command = [sys.executable, "-m", "ringstead", "xensim", "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield _started(process)
    finally:
        process.terminate()
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()


def _started(process: subprocess.Popen[str]) -> Xensim:
    urls: list[str] = []
    certificate = None
    assert process.stdout is not None
    for line in process.stdout:
        words = line.split()
        if words[0] == "certificate":
            certificate = words[1]
        elif words[-1] == "ready":
            return Xensim(process, urls, certificate)
        else:
            urls.append(words[-1])
    raise AssertionError(f"the simulator ended with {process.wait(30)} before it was ready")
