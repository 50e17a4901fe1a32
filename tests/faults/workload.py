"""A load whose every answer can be judged.

Each worker owns its names: only it writes them, one request at a time, so it knows what each must read as. A write that was
acknowledged is *certain*; one whose answer was lost or was a 5xx is *possible* until the next acknowledged write of the
name (or for good, where processes freeze and go on: `lingering`): a read may then give either. Whatever else a read gives
is a lost, stale or wrong answer and ends the test.

Bodies hold name and version, so that a wrong byte is seen and can be named.
"""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from tests.support.cluster import TestCluster
from tests.support.http_client import HttpClient

ABSENT = -1
_SIZES = (0, 17, 4096, 4096, 4096, 60_000, 200_000, 700_000)
WORKERS = 6
RETRIES = 40
RETRY_PAUSE_S = 0.25
ACKNOWLEDGED_S = 120.0
"""Generous: a busy machine has seconds for each write after a kill."""


def body_of(name: str, version: int, size: int) -> bytes:
    """The content of one version of a name."""
    line = f"{name} {version}\n".encode()
    return (line * (size // len(line) + 1))[:size]


@dataclass
class Name:
    """What one name may read as."""

    certain: int = ABSENT
    possible: set[int] = field(default_factory=set)
    sizes: dict[int, int] = field(default_factory=dict)
    lingering: set[int] = field(default_factory=set)
    """What some process may still write, at any later time."""

    @property
    def readable(self) -> set[int]:
        return {self.certain} | self.possible | self.lingering


class WrongAnswer(AssertionError):
    """The store broke its promise."""


@dataclass
class Worker:
    """One client with names of its own."""

    number: int
    port: int
    token: str
    container: str
    names_count: int = 20
    names: dict[str, Name] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    version: int = 0
    lingering: bool = False
    """A write without an answer may be done at any later time: for processes that stop and go on."""

    def __post_init__(self) -> None:
        self._random = random.Random(self.number)
        self._client = HttpClient(self.port, {"X-Auth-Token": self.token})
        for index in range(self.names_count):
            self.names[f"worker{self.number}/name{index}"] = Name()

    async def run(self, stop: trio.Event) -> None:
        """Work until told to stop."""
        while not stop.is_set():
            name = self._random.choice(list(self.names))
            action = self._random.random()
            if action < 0.55:
                await self.put(name)
            elif action < 0.65:
                await self.delete(name)
            else:
                await self.check(name)

    async def _try(self, method: str, name: str, body: bytes = b"") -> tuple[int, bytes]:
        """One request; status 0 where there was no answer."""
        try:
            status, _, content = await self._client.request(method, f"{self.container}/{name}", body)
        except (OSError, trio.BrokenResourceError, trio.TooSlowError):
            self.seen["no answer"] += 1
            return 0, b""
        self.seen[f"{method} {status}"] += 1
        return status, content

    async def put(self, name: str) -> None:
        """Store a new version, again until it is acknowledged."""
        held = self.names[name]
        self.version += 1
        version, size = self.version, self._random.choice(_SIZES)
        held.sizes[version] = size
        held.possible.add(version)
        for _ in range(RETRIES):
            status, _ = await self._try("PUT", name, body_of(name, version, size))
            if not status and self.lingering:
                held.lingering.add(version)
            if status == 201:
                held.certain, held.possible = version, set()
                return
            if 0 < status < 500:
                raise WrongAnswer(f"PUT {name} was answered {status}")
            await trio.sleep(RETRY_PAUSE_S)
        raise WrongAnswer(f"PUT {name}: {RETRIES} retries did not cure it: {self.seen}")

    async def delete(self, name: str) -> None:
        """Delete, again until it is acknowledged."""
        held = self.names[name]
        held.possible.add(ABSENT)
        for _ in range(RETRIES):
            status, _ = await self._try("DELETE", name)
            if not status and self.lingering:
                held.lingering.add(ABSENT)
            if status == 204 or (status == 404 and ABSENT in held.readable):
                held.certain, held.possible = ABSENT, set()
                return
            if 0 < status < 500:
                raise WrongAnswer(f"DELETE {name} was answered {status}; it should be {held.readable}")
            await trio.sleep(RETRY_PAUSE_S)
        raise WrongAnswer(f"DELETE {name}: {RETRIES} retries did not cure it: {self.seen}")

    async def check(self, name: str) -> None:
        """Read it, again until there is an answer, and judge that."""
        held = self.names[name]
        for _ in range(RETRIES):
            status, content = await self._try("GET", name)
            if status == 200:
                for version in held.readable - {ABSENT}:
                    if content == body_of(name, version, held.sizes[version]):
                        return
                raise WrongAnswer(
                    f"GET {name} gave {content[:60]!r} ({len(content)} bytes), not one of {held.readable}"
                )
            if status == 404:
                if ABSENT in held.readable:
                    return
                raise WrongAnswer(f"GET {name}: 404, but version {held.certain} was acknowledged")
            if 0 < status < 500:
                raise WrongAnswer(f"GET {name} was answered {status}")
            await trio.sleep(RETRY_PAUSE_S)
        raise WrongAnswer(f"GET {name}: {RETRIES} retries did not cure it: {self.seen}")

    def set_timeout(self, timeout_s: float) -> None:
        """How long to wait for an answer from now on."""
        self._client = HttpClient(self.port, {"X-Auth-Token": self.token}, timeout_s)

    async def check_listing(self) -> None:
        """List the names once: what is certain before and after, and was not written meanwhile, is listed so."""
        before = {name: (held.certain, bool(held.possible)) for name, held in self.names.items()}
        lister = HttpClient(self.port, {"X-Auth-Token": self.token})
        try:
            status, _, content = await lister.request("GET", f"{self.container}?prefix=worker{self.number}/&limit=1000")
        except (OSError, trio.BrokenResourceError, trio.TooSlowError):
            return
        finally:
            await lister.aclose()
        if status >= 500:
            return
        listed = set(content.decode().split())
        for name, held in self.names.items():
            idle = before[name] == (held.certain, bool(held.possible)) and not held.possible
            if idle and (held.certain != ABSENT) != (name in listed):
                raise WrongAnswer(f"{name} is {'not ' * (name not in listed)}listed; version {held.certain}")

    def interrupted(self) -> None:
        """Whatever was under way has no answer: the connection is gone, what was possible stays so."""
        self._client = HttpClient(self.port, {"X-Auth-Token": self.token})

    async def check_all(self) -> None:
        """Read every name, and hold the listing against what must be there."""
        for name in self.names:
            await self.check(name)
        listed: set[str] = set()
        for _ in range(RETRIES):
            status, _, content = await self._client.request(
                "GET", f"{self.container}?prefix=worker{self.number}/&limit=1000"
            )
            if status < 500:
                listed = set(content.decode().split())
                break
            await trio.sleep(RETRY_PAUSE_S)
        for name, held in self.names.items():
            if held.possible or held.lingering:
                continue
            if (held.certain != ABSENT) != (name in listed):
                raise WrongAnswer(f"{name} is {'not ' * (name not in listed)}listed; version {held.certain}")


def token_of(cluster: TestCluster) -> tuple[str, str]:
    """A token and the path of the account."""
    url, token = cluster.log_in()
    return token, "/" + url.split("/", 3)[3]


async def make_workers(cluster: TestCluster) -> list[Worker]:
    """Workers with a container of their own."""
    token, account = await trio.to_thread.run_sync(token_of, cluster)
    box = f"{account}/load-{uuid.uuid4().hex[:12]}"
    client = HttpClient(cluster.port, {"X-Auth-Token": token})
    status, _, _ = await client.request("PUT", box)
    assert status == 201
    await client.aclose()
    return [Worker(number, cluster.port, token, box) for number in range(WORKERS)]


async def until_acknowledged(workers: Sequence[Worker], writes: int) -> None:
    """Until so many more writes are acknowledged: the load has met what was done to the cluster, however slow both are."""
    enough = sum(worker.seen["PUT 201"] for worker in workers) + writes
    with trio.fail_after(ACKNOWLEDGED_S):
        while sum(worker.seen["PUT 201"] for worker in workers) < enough:
            await trio.sleep(0.02)
