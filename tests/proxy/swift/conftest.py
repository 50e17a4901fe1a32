"""The Swift dialect on a real store: requests go in, responses come out, no HTTP between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import orjson
import pytest
import trio

from proxy.http.message import ClientDisconnected, Request
from proxy.identity import Identity
from proxy.store import ObjectStore
from proxy.swift.app import SwiftApp
from proxy.swift.settings import SwiftSettings
from proxy.user_store import UserStore
from proxy.users import User, UserRecord
from tests.support.small_cluster import CLUSTER_KEY, SmallCluster, small_cluster

SETTINGS = SwiftSettings(slo_segment_count_max=20, bulk_delete_count_max=50, bulk_delete_failure_count_max=10)


class Time:
    """Seconds since 1970, moved by the test."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


class Body:
    """A request's body in pieces; chunked if it does not tell its length, torn if it breaks off."""

    def __init__(self, data: bytes, *, chunked: bool = False, torn: bool = False) -> None:
        self._pieces = [data[i : i + 65536] for i in range(0, len(data), 65536)]
        self._torn = torn
        self.length: int | None = None if chunked else len(data)

    async def read(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if self._pieces:
            return self._pieces.pop(0)
        if self._torn:
            raise ClientDisconnected
        return b""


class Answer(NamedTuple):
    """A response with its body read."""

    status: int
    headers: dict[str, str]
    """Lower-case names."""
    body: bytes
    length: int | None
    """What Content-Length says."""

    def json(self) -> Any:
        """The body as JSON."""
        return orjson.loads(self.body)

    @property
    def lines(self) -> list[str]:
        """The body as lines of text."""
        return self.body.decode().splitlines()


class Cloud:
    """The dialect, its users and a way to ask it."""

    def __init__(self, cluster: SmallCluster, time: Time) -> None:
        self.cluster = cluster
        self.store: ObjectStore = cluster.store
        self.time = time
        self.identity = Identity(cluster.store, CLUSTER_KEY, time)
        self.app = SwiftApp(cluster.store, self.identity, SETTINGS, time)
        self.tokens: dict[str, str] = {}
        self._counter = 0

    async def add_user(self, user: User) -> None:
        """Make a user (without a password, which would cost a hash) and log in."""
        await UserStore(self.store).create(UserRecord(user, (), b"", b""))
        self.tokens[user.name], _ = self.identity.issue_token(user)

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | Body | None = None,
        *,
        by: str | None = "ada",
        **headers: str | bytes,
    ) -> Answer:
        """One request. A path that does not begin with a slash is in ada's account; headers' underscores are dashes."""
        target = path if path.startswith("/") else f"/v1/AUTH_science/{path}"
        sent = {b"host": b"store.example:8080"}
        if by is not None:
            sent[b"x-auth-token"] = self.tokens[by].encode()
        source = body if isinstance(body, Body) else Body(body or b"")
        if body is not None and source.length is not None:
            sent[b"content-length"] = b"%d" % source.length
        for name, value in headers.items():
            sent[name.replace("_", "-").lower().encode()] = value.encode() if isinstance(value, str) else value
        self._counter += 1
        request = Request(method, target.encode(), sent, source, "127.0.0.1:4000", f"tx{self._counter:08x}")
        response = await self.app.handle(request)
        content = response.body
        if not isinstance(content, (bytes, memoryview)):
            pieces = []
            try:
                while piece := await content.read():
                    pieces.append(bytes(piece))
            finally:
                await content.aclose()
            content = b"".join(pieces)
        if method != "HEAD" and response.length is not None:
            assert response.length == len(content)
        answered = {name.decode().lower(): value.decode() for name, value in response.headers}
        assert len(answered) == len(response.headers), "a header is there twice"
        return Answer(response.status, answered, bytes(content), response.length)

    async def put(self, path: str, data: bytes = b"data", **headers: str) -> Answer:
        """Store an object; it must work."""
        answer = await self.ask("PUT", path, data, **headers)
        assert answer.status == 201, (answer.status, answer.body)
        return answer

    async def names(self, path: str) -> Sequence[str]:
        """The lines of a listing; it must work."""
        answer = await self.ask("GET", path)
        assert answer.status in (200, 204), (answer.status, answer.body)
        return answer.lines


@pytest.fixture
async def cloud() -> AsyncIterator[Cloud]:
    """Three devices; ada of science, bob of art and an administrator; a container c of ada's."""
    async with small_cluster(devices=3) as cluster:
        cloud = Cloud(cluster, Time())
        await cloud.add_user(User("science", "ada", stamp=b"12345678"))
        await cloud.add_user(User("art", "bob", stamp=b"12345678"))
        await cloud.add_user(User("ops", "root", admin=True, stamp=b"12345678"))
        assert (await cloud.ask("PUT", "c")).status == 201
        yield cloud
