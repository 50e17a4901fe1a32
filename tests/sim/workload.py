"""What clients do to the simulated cluster, and what they check.

Each client does one thing after the other, through any proxy: puts, gets, deletes, changes of metadata, conditional writes,
listings. Names are few, so that clients meet on them. Every answer goes to the model.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hashlib import shake_128
from random import Random
from typing import TypeVar

import trio

from proxy.model import (
    BodySource,
    Conditions,
    ListQuery,
    NoSuchContainer,
    NoSuchObject,
    ObjectInfo,
    PreconditionFailed,
    PutObjectRequest,
    StoreError,
)
from proxy.object_reads import OpenObject
from proxy.store import ObjectStore
from tests.sim.cluster import Lost, Proxy, SimCluster
from tests.sim.model import Name, Seen, Write, settled
from tests.sim.world import Violation, grid

T = TypeVar("T")
ACCOUNT = "AUTH_sim"
PATIENCE_S = 60.0
"""What a client waits for an answer."""
ABSENT = Conditions(if_none_match=("*",))
PIECE_BYTES = 48 * 1024


class Unsettled(Violation):
    """A listing or a total is not what it should be in the end, and may be yet."""


class Body:
    """A body that comes in pieces, some time apart: a BodySource."""

    def __init__(self, data: bytes, announced: bool) -> None:
        self._data = data
        self._at = 0
        self._announced = announced

    @property
    def length(self) -> int | None:
        """See BodySource."""
        return len(self._data) if self._announced else None

    async def read(self) -> bytes:
        """See BodySource."""
        if self._at:
            await trio.sleep(0.001)
        piece = self._data[self._at : self._at + PIECE_BYTES]
        self._at += len(piece)
        return piece


def content(key: str, number: int, size_bytes: int) -> bytes:
    """Bytes that say whose they are, of any length from some dozens."""
    head = f"{key} {number};".encode()
    return head + shake_128(head).digest(max(0, size_bytes - len(head)))


class Workload:
    """All clients of a run, and the model that they share."""

    def __init__(self, cluster: SimCluster, random: Random, *, clients: int, pause_s: float) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._random = random
        self._clients = clients
        self._pause_s = pause_s
        self._count = 0
        self.containers = [b"c%d" % number for number in range(random.choice((1, 2, 3)))]
        names_count = random.choice((4, 12, 30))
        self.names: dict[str, Name] = {}
        for container in self.containers:
            for number in range(names_count):
                key = f"{container.decode()}/n{number:02}"
                self.names[key] = Name(key)
        self.stopping = False

    # ----------------------------------------------------------------------------------------------------------- running

    async def prepare(self) -> None:
        """Make the containers, before anything breaks."""
        proxy = next(iter(self._cluster.proxies.values()))
        for container in self.containers:
            await proxy.call(lambda store, c=container: store.create_container(ACCOUNT, c, {}))  # type: ignore[misc]

    async def run(self) -> None:
        """Until `stopping` is set and every client has come to the end of what it was doing."""
        async with trio.open_nursery() as nursery:
            for number in range(self._clients):
                nursery.start_soon(self._client, self._world.stream(f"client {number}"))

    async def _client(self, random: Random) -> None:
        actions: list[tuple[int, Callable[[Random, Proxy], Awaitable[None]]]] = [
            (34, self._put),
            (26, self._get),
            (14, self._delete),
            (6, self._put_if_absent),
            (12, self._list),
            (8, self._head),
        ]
        weights = [weight for weight, _ in actions]
        while not self.stopping:
            await trio.sleep(grid(random.expovariate(1 / self._pause_s)))
            proxies = self._cluster.proxies
            if not proxies:
                continue
            proxy = proxies[random.choice(sorted(proxies))]
            _, action = random.choices(actions, weights)[0]
            await action(random, proxy)

    async def _ask(
        self, what: str, proxy: Proxy, function: Callable[[ObjectStore], Awaitable[T]]
    ) -> T | StoreError | Lost:
        """One request, and its line in the trace."""
        self._count += 1
        number = self._count
        kind = what.partition(" ")[0]
        self._world.note(f"{number:4} {proxy.process} {what}")
        outcome: T | StoreError | Lost
        try:
            with trio.fail_after(PATIENCE_S):
                outcome = await proxy.call(function)
        except (StoreError, Lost) as error:
            outcome = error
        except trio.TooSlowError:
            raise Violation(f"request {number} ({what}) was not answered within {PATIENCE_S} s") from None
        said = f"{type(outcome).__name__} {outcome}" if isinstance(outcome, Exception) else _brief(outcome)
        self._world.note(f"{number:4} {what} -> {said}")
        self._world.counts[f"operation: {kind}"] += 1
        if isinstance(outcome, Exception) and not isinstance(outcome, NoSuchObject | PreconditionFailed):
            self._world.counts[f"unanswered: {type(outcome).__name__}"] += 1
        return outcome

    def _pick(self, random: Random) -> tuple[Name, bytes, bytes]:
        key = random.choice(sorted(self.names))
        container, _, name = key.encode().partition(b"/")
        return self.names[key], container, name

    # ------------------------------------------------------------------------------------------------------------ writes

    async def _put(self, random: Random, proxy: Proxy, conditions: Conditions | None = None) -> None:
        register, container, name = self._pick(random)
        size_bytes = int(random.choice((30, 300, 4_000, 4_000, 20_000, 20_000, 60_000, 600_000)) * random.random())
        value = content(register.key, len(register.writes), size_bytes)
        write = register.begin(value, self._world.now_s)
        request = PutObjectRequest("text/plain", {"meta:n": str(write.number)}, conditions or Conditions())
        body: BodySource = Body(value, random.random() < 0.7)
        what = f"{'create' if conditions else 'put'} {register.key} #{write.number} of {len(value)}"
        outcome = await self._ask(what, proxy, lambda store: store.put_object(ACCOUNT, container, name, body, request))
        if isinstance(outcome, ObjectInfo):
            stamp = outcome.timestamp
            self._applied(register, write, proxy, stamp, stamp, outcome.consistency.degraded)
            if conditions:
                self._check_alone(register, write)
        elif isinstance(outcome, PreconditionFailed):
            register.refused(write)
        else:
            self._failed(register, write, proxy)

    async def _put_if_absent(self, random: Random, proxy: Proxy) -> None:
        await self._put(random, proxy, ABSENT)

    def _check_alone(self, register: Name, write: Write) -> None:
        """A write that was to succeed only where nothing is: what was there before must have been deleted."""
        for other in register.writes:
            overlaps = other.done_s > write.began_s
            if other is write or other.value is None or overlaps or other.degraded or write.degraded or other.refused:
                continue
            gone = any(w.value is None and w.high > other.low and not w.refused for w in register.writes)
            if other.high < write.low and not gone:
                raise Violation(
                    f"{register.key}: write {write.number} was to create it, though {other.number} was there"
                )

    async def _delete(self, random: Random, proxy: Proxy) -> None:
        register, container, name = self._pick(random)
        write = register.begin(None, self._world.now_s)
        began_s = self._world.now_s
        outcome = await self._ask(
            f"delete {register.key} #{write.number}", proxy, lambda store: store.delete_object(ACCOUNT, container, name)
        )
        if isinstance(outcome, ObjectInfo):
            # What it deleted; it was later than that, and no later than its proxy's clock.
            self._applied(
                register, write, proxy, outcome.timestamp + 1, proxy.newest_stamp, outcome.consistency.degraded
            )
        elif isinstance(outcome, NoSuchObject):
            register.refused(write)
            degraded = self._suspicious(proxy)
            register.read(Seen(None, outcome.deleted_timestamp), began_s, degraded=degraded)
        else:
            self._failed(register, write, proxy)

    def _applied(self, register: Name, write: Write, proxy: Proxy, low: int, high: int, degraded: bool) -> None:
        register.acknowledged(write, self._world.now_s, low, high, degraded)

    def _failed(self, register: Name, write: Write, proxy: Proxy) -> None:
        register.unknown(write, proxy.newest_stamp)

    @staticmethod
    def _suspicious(proxy: Proxy) -> bool:
        return False

    # ------------------------------------------------------------------------------------------------------------- reads

    async def _get(self, random: Random, proxy: Proxy) -> None:
        register, container, name = self._pick(random)
        began_s = self._world.now_s

        async def get(store: ObjectStore) -> tuple[ObjectInfo, bytes]:
            opened = await store.open_object(ACCOUNT, container, name)
            return opened.info, await _read_all(opened)

        outcome = await self._ask(f"get {register.key}", proxy, get)
        if isinstance(outcome, tuple):
            info, data = outcome
            if len(data) != info.size_bytes:
                raise Violation(f"{register.key}: {len(data)} bytes of {info.size_bytes}")
            register.read(Seen(data, info.timestamp), began_s, degraded=info.consistency.degraded)
        elif isinstance(outcome, NoSuchObject):
            register.read(Seen(None, outcome.deleted_timestamp), began_s)
        elif isinstance(outcome, NoSuchContainer):
            raise Violation(f"{container!r} does not exist, though nobody deleted it")

    async def _head(self, random: Random, proxy: Proxy) -> None:
        register, container, name = self._pick(random)
        began_s = self._world.now_s
        outcome = await self._ask(
            f"head {register.key}", proxy, lambda store: store.head_object(ACCOUNT, container, name)
        )
        if isinstance(outcome, ObjectInfo):
            self._check_info(register, outcome, began_s)
        elif isinstance(outcome, NoSuchObject):
            register.read(Seen(None, outcome.deleted_timestamp), began_s)

    @staticmethod
    def _check_info(register: Name, info: ObjectInfo, began_s: float) -> None:
        number = int(info.metadata["meta:n"])
        value = register.writes[number].value
        if value is None or len(value) != info.size_bytes:
            raise Violation(f"{register.key}: the metadata of write {number} with a size of {info.size_bytes}")
        register.read(Seen(value, info.timestamp), began_s, degraded=info.consistency.degraded)

    async def _list(self, random: Random, proxy: Proxy) -> None:
        container = random.choice(self.containers)
        began_s = self._world.now_s
        outcome = await self._ask(
            f"list {container.decode()}", proxy, lambda store: store.list_objects(ACCOUNT, container, ListQuery())
        )
        if isinstance(outcome, NoSuchContainer):
            raise Violation(f"{container!r} does not exist, though nobody deleted it")
        if isinstance(outcome, Exception) or outcome.container.consistency.degraded:
            return
        shown = {item.name: item for item in outcome.items if hasattr(item, "timestamp")}
        for key, register in self.names.items():
            folder, _, name = key.encode().partition(b"/")
            if folder == container:
                item = shown.get(name)
                register.listed(item.timestamp if item is not None else None, began_s)

    # ---------------------------------------------------------------------------------------------------------- the end

    async def check_healed(self) -> None:
        """What every proxy says of everything, once all has healed."""
        answers = []
        for number in sorted(self._cluster.proxies):
            proxy = self._cluster.proxies[number]
            seen: dict[str, Seen] = {}
            for key in sorted(self.names):
                seen[key] = await self._final(proxy, key)
            answers.append(seen)
            await self._check_listings(proxy, seen)
        settled(self.names, answers, self._world.now_s)

    async def _final(self, proxy: Proxy, key: str) -> Seen:
        container, _, name = key.encode().partition(b"/")

        async def get(store: ObjectStore) -> tuple[ObjectInfo, bytes]:
            opened = await store.open_object(ACCOUNT, container, name)
            return opened.info, await _read_all(opened)

        outcome = await self._ask(f"final {key}", proxy, get)
        if isinstance(outcome, tuple):
            info, data = outcome
            if info.consistency.degraded:
                raise Violation(f"{key}: a degraded answer after all has healed")
            return Seen(data, info.timestamp)
        if isinstance(outcome, NoSuchObject):
            return Seen(None, outcome.deleted_timestamp)
        raise Violation(f"{key}: {outcome!r} after all has healed")

    async def _check_listings(self, proxy: Proxy, seen: dict[str, Seen]) -> None:
        """Listings hold exactly what is there, and totals are exact."""
        totals = [0, 0]
        for container in self.containers:
            outcome = await self._ask(
                f"final list {container.decode()}",
                proxy,
                lambda store, c=container: store.list_objects(ACCOUNT, c, ListQuery()),  # type: ignore[misc]
            )
            if isinstance(outcome, Exception):
                raise Violation(f"{container!r}: {outcome!r} after all has healed")
            prefix = container.decode() + "/"
            there = {
                key.removeprefix(prefix).encode(): len(one.value)
                for key, one in seen.items()
                if key.startswith(prefix) and one.value is not None
            }
            shown = {item.name: item.size_bytes for item in outcome.items if hasattr(item, "size_bytes")}
            if shown != there:
                raise Unsettled(
                    f"{container!r}: listed but not there, or otherwise: {sorted(shown.items() ^ there.items())}"
                )
            if (outcome.container.object_count, outcome.container.size_bytes) != (len(there), sum(there.values())):
                raise Unsettled(f"{container!r}: totals {outcome.container} of {len(there)}, {sum(there.values())}")
            totals[0] += len(there)
            totals[1] += sum(there.values())
        account = await self._ask("final account", proxy, lambda store: store.head_account(ACCOUNT))
        if isinstance(account, Exception):
            raise Violation(f"{account!r} after all has healed")
        if [account.object_count, account.size_bytes] != totals or account.container_count != len(self.containers):
            raise Unsettled(f"the account's totals are {account}, and should be {totals}")


async def _read_all(opened: OpenObject) -> bytes:
    stream = opened.stream(0, opened.info.size_bytes)
    try:
        pieces = []
        while piece := await stream.read():
            pieces.append(bytes(piece))
        return b"".join(pieces)
    finally:
        await stream.aclose()


def _brief(outcome: object) -> str:
    if isinstance(outcome, tuple):
        info, data = outcome
        return f"{_brief(info)}: {data[:24]!r}"
    if isinstance(outcome, ObjectInfo):
        degraded = ", degraded" if outcome.consistency.degraded else ""
        return f"{outcome.size_bytes} bytes of {outcome.timestamp}{degraded}"
    return type(outcome).__name__
