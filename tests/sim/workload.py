"""What clients do to the simulated cluster, and what they check.

Each client does one thing after the other, through any proxy: puts, gets, deletes, changes of metadata, conditional writes,
copies, listings. Names are few, so that clients meet on them. Every answer goes to the model.

There are four kinds of names, so that what was read can be told apart: plain ones, whose metadata is changed and which are
copied; those that copies are written to; those that are written with a time of their end; and those that are written by
parts. Some containers come and go.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hashlib import md5
from itertools import pairwise
from random import Random
from typing import TypeVar

import trio

from proxy.expiry_queue import DELETE_AT
from proxy.model import (
    BodySource,
    Conditions,
    ContainerNotEmpty,
    ListedObject,
    ListQuery,
    Manifest,
    NoSuchContainer,
    NoSuchObject,
    ObjectInfo,
    PreconditionFailed,
    PutObjectRequest,
    Segment,
    StoreError,
)
from proxy.names import ObjectName
from proxy.store import ObjectStore
from tests.sim.bodies import Body, content, read_all, seen
from tests.sim.cluster import Lost, Proxy, SimCluster
from tests.sim.model import NEVER, SOME, Name, Passing, Seen, Write
from tests.sim.world import BASE_US, Violation, grid

T = TypeVar("T")
ACCOUNT = "AUTH_sim"
PATIENCE_S = 60.0
"""What a client waits for an answer."""
ABSENT = Conditions(if_none_match=("*",))
PLAIN, COPY, ENDING, PARTED = "n", "k", "e", "m"
"""What the names of a kind begin with."""
REFUSALS = (NoSuchObject, NoSuchContainer, ContainerNotEmpty, PreconditionFailed)
"""Answers, though no good ones."""
PARTS = b"\x00parts"
"""The internal container of parts."""


def kind_of(key: str) -> str:
    """The kind of a name."""
    return key.partition("/")[2][0]


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
        kinds = random.choice(
            (PLAIN, PLAIN + COPY, PLAIN + ENDING, PLAIN + PARTED, PLAIN + PLAIN + COPY + ENDING + PARTED)
        )
        self.names: dict[str, Name] = {}
        for container in self.containers:
            for number in range(names_count):
                key = f"{container.decode()}/{kinds[number % len(kinds)]}{number:02}"
                self.names[key] = Name(key, cluster.shape.skew_max_s)
        self._kinds = {kind_of(key) for key in self.names}
        self.passing = {b"x%d" % number: Passing() for number in range(random.choice((0, 1, 2)))}
        for container in self.passing:
            for number in range(4):
                key = f"{container.decode()}/{PLAIN}{number:02}"
                self.names[key] = Name(key, cluster.shape.skew_max_s)
        self.stopping = False

    # ----------------------------------------------------------------------------------------------------------- running

    async def prepare(self) -> None:
        """Make the containers, before anything breaks."""
        proxy = next(iter(self._cluster.proxies.values()))
        for container in (*self.containers, PARTS):
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
            (10, self._update),
            *([(8, self._copy)] if COPY in self._kinds else []),
            *([(8, self._put_parts)] if PARTED in self._kinds else []),
            *([(6, self._create_container), (6, self._delete_container)] if self.passing else []),
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

    async def ask(
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
        if isinstance(outcome, Exception) and not isinstance(outcome, REFUSALS):
            self._world.counts[f"unanswered: {type(outcome).__name__}"] += 1
        return outcome

    def _pick(self, random: Random, kind: str = "") -> tuple[Name, bytes, bytes]:
        """One of the names, or of those of a kind."""
        key = random.choice([key for key in sorted(self.names) if kind in ("", kind_of(key))])
        container, _, name = key.encode().partition(b"/")
        return self.names[key], container, name

    # ------------------------------------------------------------------------------------------------------------ writes

    async def _put(self, random: Random, proxy: Proxy, conditions: Conditions | None = None) -> None:
        register, container, name = self._pick(random)
        size_bytes = int(random.choice((30, 300, 4_000, 4_000, 20_000, 20_000, 60_000, 600_000)) * random.random())
        value = content(register.key, len(register.writes), size_bytes)
        write = register.begin(value, self._world.now_s)
        metadata = {"meta:n": str(write.number)}
        if kind_of(register.key) == ENDING:
            end_s = int(BASE_US / 1e6 + self._world.now_s + random.choice((1.0, 10.0, 60.0)) * random.random()) + 1
            metadata[DELETE_AT] = str(end_s)
            write.end_s = end_s - BASE_US / 1e6
        request = PutObjectRequest("text/plain", metadata, conditions or Conditions())
        body: BodySource = Body(value, random.random() < 0.7)
        what = f"{'create' if conditions else 'put'} {register.key} #{write.number} of {len(value)}"
        what += f" until {write.end_s:.1f}" if write.end_s < NEVER else ""
        outcome = await self.ask(what, proxy, lambda store: store.put_object(ACCOUNT, container, name, body, request))
        if isinstance(outcome, ObjectInfo):
            stamp = outcome.timestamp
            self._applied(register, write, stamp, stamp, outcome.consistency.degraded)
            if conditions:
                self._check_alone(register, write)
        elif isinstance(outcome, PreconditionFailed):
            register.refused(write)
        else:
            register.unknown(write, proxy.newest_stamp)
            if isinstance(outcome, NoSuchContainer):
                # What was written before that was found out is deleted again, with what it replaced.
                self._not_there(container, write.began_s)
                register.unknown(register.begin(None, self._world.now_s), proxy.newest_stamp)

    async def _put_parts(self, random: Random, proxy: Proxy) -> None:
        """As an upload by parts: each is an object of its own, and then one is made of them, which owns them."""
        register, container, name = self._pick(random, PARTED)
        upload = f"{register.key}/{self._count}"
        value = content(upload, 0, int(random.choice((300, 60_000, 400_000)) * random.random()))
        cuts = [0, *sorted(random.randint(1, len(value) - 1) for _ in range(random.randint(0, 2))), len(value)]
        segments = []
        for number, (start, stop) in enumerate(pairwise(cuts)):
            part = f"{upload}/{number}".encode()
            body = Body(value[start:stop], True)
            outcome = await self.ask(
                f"part {part.decode()} of {stop - start}",
                proxy,
                lambda store, p=part, b=body: store.put_object(ACCOUNT, PARTS, p, b, PutObjectRequest()),  # type: ignore[misc]
            )
            if not isinstance(outcome, ObjectInfo):
                return
            segments.append(Segment(ACCOUNT, PARTS, part, stop - start, outcome.etag))
        manifest = Manifest(tuple(segments), owned=True)
        etag = md5(value, usedforsecurity=False).hexdigest()
        write = register.begin(value, self._world.now_s)
        request = PutObjectRequest("text/plain", {"meta:n": str(write.number)})
        outcome = await self.ask(
            f"join {register.key} #{write.number} of {len(value)}",
            proxy,
            lambda store: store.put_manifest(ACCOUNT, container, name, manifest, etag, len(value), request),
        )
        if isinstance(outcome, ObjectInfo):
            self._applied(register, write, outcome.timestamp, outcome.timestamp, outcome.consistency.degraded)
        else:
            register.unknown(write, proxy.newest_stamp)

    async def _copy(self, random: Random, proxy: Proxy) -> None:
        source, *place = self._pick(random, PLAIN)
        register, container, name = self._pick(random, COPY)
        write = register.begin(SOME, self._world.now_s)
        write.source = source
        began_s = self._world.now_s
        request = PutObjectRequest("text/plain", {"meta:n": str(write.number)})
        outcome = await self.ask(
            f"copy {source.key} to {register.key} #{write.number}",
            proxy,
            lambda store: store.copy_object(
                ObjectName(ACCOUNT, *place), Conditions(), ObjectName(ACCOUNT, container, name), request
            ),
        )
        if isinstance(outcome, ObjectInfo):
            degraded = outcome.consistency.degraded
            write.value = source.with_etag(outcome.etag)
            source.copied(write.value, began_s, degraded=degraded)
            self._applied(register, write, outcome.timestamp, outcome.timestamp, degraded)
        elif isinstance(outcome, NoSuchObject):
            register.refused(write)
            source.read(Seen(None, outcome.deleted_timestamp), began_s, self._world.now_s)
        else:
            register.unknown(write, proxy.newest_stamp)
            if isinstance(outcome, NoSuchContainer):
                self._nothing(source, place[0], outcome, began_s)

    async def _update(self, random: Random, proxy: Proxy) -> None:
        register, container, name = self._pick(random, PLAIN)
        update = register.begin_update()
        began_s = self._world.now_s
        metadata = {"meta:u": str(update.number)}
        outcome = await self.ask(
            f"update {register.key} with {update.number}",
            proxy,
            lambda store: store.update_object(ACCOUNT, container, name, metadata, None),
        )
        if isinstance(outcome, ObjectInfo):
            degraded = outcome.consistency.degraded
            self._check_info(register, outcome, began_s)
            update.data, update.stamp = outcome.timestamp, outcome.meta_timestamp
            update.done_s, update.degraded = self._world.now_s, degraded
        else:
            self._nothing(register, container, outcome, began_s)

    async def _put_if_absent(self, random: Random, proxy: Proxy) -> None:
        await self._put(random, proxy, ABSENT)

    def _check_alone(self, register: Name, write: Write) -> None:
        """A write that was to succeed only where nothing is: what was there before must be deleted, or have ended."""
        for other in register.writes:
            overlaps = other.done_s > write.began_s
            if other is write or other.value is None or overlaps or other.degraded or write.degraded or other.refused:
                continue
            if other.high < write.low and not register.is_gone(other.low, self._world.now_s):
                raise Violation(
                    f"{register.key}: write {write.number} was to create it, though {other.number} was there"
                )

    async def _delete(self, random: Random, proxy: Proxy) -> None:
        register, container, name = self._pick(random)
        write = register.begin(None, self._world.now_s)
        began_s = self._world.now_s
        outcome = await self.ask(
            f"delete {register.key} #{write.number}", proxy, lambda store: store.delete_object(ACCOUNT, container, name)
        )
        if isinstance(outcome, ObjectInfo):
            # What it deleted; it was later than that, and no later than its proxy's clock.
            degraded = outcome.consistency.degraded
            self._applied(register, write, outcome.timestamp + 1, proxy.newest_stamp, degraded)
        elif isinstance(outcome, NoSuchObject | NoSuchContainer):
            register.refused(write)
            self._nothing(register, container, outcome, began_s)
        else:
            register.unknown(write, proxy.newest_stamp)

    def _applied(self, register: Name, write: Write, low: int, high: int, degraded: bool) -> None:
        register.acknowledged(write, self._world.now_s, low, high, degraded)

    # ------------------------------------------------------------------------------------------------------------- reads

    async def _get(self, random: Random, proxy: Proxy) -> None:
        register, container, name = self._pick(random)
        began_s = self._world.now_s

        async def get(store: ObjectStore) -> tuple[ObjectInfo, bytes]:
            opened = await store.open_object(ACCOUNT, container, name)
            return opened.info, await read_all(opened)

        outcome = await self.ask(f"get {register.key}", proxy, get)
        if isinstance(outcome, tuple):
            info, data = outcome
            if len(data) != info.size_bytes:
                raise Violation(f"{register.key}: {len(data)} bytes of {info.size_bytes}")
            self._check_info(register, info, began_s, data)
        else:
            self._nothing(register, container, outcome, began_s)

    async def _head(self, random: Random, proxy: Proxy) -> None:
        register, container, name = self._pick(random)
        began_s = self._world.now_s
        outcome = await self.ask(
            f"head {register.key}", proxy, lambda store: store.head_object(ACCOUNT, container, name)
        )
        if isinstance(outcome, ObjectInfo):
            self._check_info(register, outcome, began_s)
        else:
            self._nothing(register, container, outcome, began_s)

    def _check_info(self, register: Name, info: ObjectInfo, began_s: float, data: bytes | None = None) -> None:
        value = register.with_etag(info.etag) if data is None else data
        if len(value) != info.size_bytes:
            raise Violation(f"{register.key}: an etag of {len(value)} bytes with a size of {info.size_bytes}")
        degraded = info.consistency.degraded
        register.read(seen(info, value), began_s, self._world.now_s, degraded=degraded)

    def _nothing(self, register: Name, container: bytes, outcome: object, began_s: float) -> None:
        """Nothing is there, if that is what the answer says."""
        if isinstance(outcome, NoSuchContainer):
            self._not_there(container, began_s)
            register.read(Seen(None, 0), began_s, self._world.now_s)
        elif isinstance(outcome, NoSuchObject):
            register.read(Seen(None, outcome.deleted_timestamp), began_s, self._world.now_s)

    # ------------------------------------------------------------------------------------------------------- containers

    def _not_there(self, container: bytes, began_s: float) -> None:
        """An answer, asked for then, said that there is no such container."""
        passing = self.passing.get(container)
        if passing is None or not (passing.deletion_tried or passing.created_s >= began_s):
            raise Violation(f"{container!r} does not exist, though nobody deleted it")

    async def _create_container(self, random: Random, proxy: Proxy) -> None:
        container, passing = random.choice(sorted(self.passing.items()))
        outcome = await self.ask(
            f"make {container.decode()}", proxy, lambda store: store.create_container(ACCOUNT, container, {})
        )
        if not isinstance(outcome, Exception):
            passing.created_s = min(passing.created_s, self._world.now_s)

    async def _delete_container(self, random: Random, proxy: Proxy) -> None:
        container, passing = random.choice(sorted(self.passing.items()))
        began_s = self._world.now_s
        passing.deletion_tried = True
        outcome = await self.ask(
            f"remove {container.decode()}", proxy, lambda store: store.delete_container(ACCOUNT, container)
        )
        if outcome is None:
            for _, register in self._in(container):
                register.listed(None, began_s, self._world.now_s)

    def _in(self, container: bytes) -> list[tuple[bytes, Name]]:
        """The names in a container."""
        prefix = container.decode() + "/"
        return [
            (key.removeprefix(prefix).encode(), register)
            for key, register in self.names.items()
            if key.startswith(prefix)
        ]

    async def _list(self, random: Random, proxy: Proxy) -> None:
        container = random.choice([*self.containers, *self.passing])
        began_s = self._world.now_s
        outcome = await self.ask(
            f"list {container.decode()}", proxy, lambda store: store.list_objects(ACCOUNT, container, ListQuery())
        )
        if isinstance(outcome, NoSuchContainer):
            self._not_there(container, began_s)
        if isinstance(outcome, Exception) or outcome.container.consistency.degraded:
            return
        shown = {item.name: item for item in outcome.items if isinstance(item, ListedObject)}
        for name, register in self._in(container):
            item = shown.get(name)
            register.listed(item.timestamp if item is not None else None, began_s, self._world.now_s)


def _brief(outcome: object) -> str:
    if isinstance(outcome, tuple):
        info, data = outcome
        return f"{_brief(info)}: {data[:24]!r}"
    if isinstance(outcome, ObjectInfo):
        degraded = ", degraded" if outcome.consistency.degraded else ""
        return f"{outcome.size_bytes} bytes of {outcome.timestamp}{degraded}"
    return type(outcome).__name__
