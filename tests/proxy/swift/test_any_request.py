"""Requests that no client would send: each gets an answer that is not 500, and the store stays whole."""

from __future__ import annotations

import random
from urllib.parse import quote

import trio

from proxy.reaping import Reaping
from tests.proxy.swift.conftest import Body, Cloud

SEED = 20261123
REQUESTS = 1500
METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE", "COPY", "OPTIONS", "PATCH")
SEGMENTS = (
    "c", "d", "c%2Fo", "o", "o2", "%FF", "%00", "", "..", "%C3%BC", "x" * 300, "x" * 1100, "slo", "dlo", "a b", "+",
    "%", "%zz",
)  # fmt: skip
PARAMETERS = (
    "multipart-manifest=put", "multipart-manifest=get", "multipart-manifest=delete", "format=json", "format=xml",
    "format=%FF", "limit=3", "limit=-1", "limit=99999", "prefix=%FF", "prefix=o", "delimiter=/", "delimiter=%C3",
    "marker=o", "reverse=1", "path=", "path=o", "bulk-delete", "temp_url_sig=00", "temp_url_expires=1",
    "temp_url_sig=%FF&temp_url_expires=9999999999", "end_marker=z", "=", "&&&", "%FF=%FF", "inline",
    "filename=%00%0A",
)  # fmt: skip
VALUES = (
    b"", b"true", b"c/o", b"/c/o2", b"none/x", b"*", b'"*"', b'"abc"', b"d41d8cd98f00b204e9800998ecf8427e",
    b"\xff\xfe", b"bytes=0-", b"bytes=-1", b"bytes=0-0,2-3", b"bytes=9-1", b"Thu, 01 Jan 2099 00:00:00 GMT", b"1",
    b"-1", b"99999999999999", b".r:*,.rlistings", b".r:*", b"art:bob", b"AUTH_art", b"application/json",
    b"text/xml;q=0.5", b"x" * 600, "ü".encode(), b"https://page.example", b"GET",
)  # fmt: skip
HEADERS = (
    "etag", "range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since",
    "x-newest", "accept", "content-type", "x-detect-content-type", "x-delete-at", "x-delete-after",
    "x-object-manifest", "x-copy-from", "x-copy-from-account", "destination", "destination-account",
    "x-fresh-metadata", "x-object-meta-a", "x-object-meta-", "x-container-meta-a", "x-remove-container-meta-a",
    "x-account-meta-a", "x-container-read", "x-container-write", "origin", "x-storage-policy", "referer",
    "access-control-request-method", "x-container-meta-access-control-allow-origin", "x-auth-token",
    "content-encoding", "x-container-meta-temp-url-key",
)  # fmt: skip
BODIES = (
    b"", b"hello", b"[]", b'[{"path": "/c/o"}]', b'[{"path": "/c/o", "range": "0-1"}, {"path": "/c/slo"}]',
    b"c/o\nc/%FF\nd", b"x" * 200_000, b'[{"path": 5}]', b"\xff" * 10,
)  # fmt: skip


async def test_any_request_is_answered(cloud: Cloud) -> None:
    """Methods, paths, parameters, headers and bodies thrown together at random; accounts that are deleted are made again."""
    source = random.Random(SEED)
    reaping = Reaping(cloud.store)
    seen: dict[int, int] = {}
    for number in range(REQUESTS):
        graves = await reaping.graves()
        for grave in graves:
            assert await reaping.reap(grave, trio.lowlevel.checkpoint, lambda objects, containers: None)
        if graves or number % 100 == 0:
            for container in ("c", "d"):
                await cloud.ask("PUT", container)
        method = source.choice(METHODS)
        depth = source.choice((0, 1, 2, 2, 2, 3))
        account = source.choice(("AUTH_science",) * 8 + ("AUTH_art", "AUTH_none", ".ringstead", "%FF"))
        path = "/v1/" + "/".join([account, *(source.choice(SEGMENTS) for _ in range(depth))])
        if source.random() < 0.6 and depth >= 2:
            path = f"/v1/AUTH_science/c/{source.choice(('o', 'o2', 'slo', 'dlo'))}"
        parameters = source.sample(PARAMETERS, source.choice((0, 0, 1, 2)))
        headers = {name: source.choice(VALUES) for name in source.sample(HEADERS, source.choice((0, 1, 2, 4)))}
        data = source.choice(BODIES)
        kind = source.random()
        body = Body(data, chunked=kind < 0.2, torn=0.2 < kind < 0.3) if kind < 0.9 else None
        target = f"{path}?{'&'.join(parameters)}" if parameters else path
        answer = await cloud.ask(
            method, target, body, by=source.choice(("ada", "ada", "ada", "bob", "root", None)), **headers
        )
        assert answer.status != 500, (SEED, number, method, target, headers)
        seen[answer.status] = seen.get(answer.status, 0) + 1
    assert {200, 201, 202, 204, 400, 401, 403, 404, 405, 409, 411, 412} <= set(seen), sorted(seen)
    for grave in await reaping.graves():
        assert await reaping.reap(grave, trio.lowlevel.checkpoint, lambda objects, containers: None)
    for container in (await cloud.ask("GET", "/v1/AUTH_science?format=json")).json():
        name = quote(container["name"])
        for row in (await cloud.ask("GET", f"{name}?format=json")).json():
            head = await cloud.ask("HEAD", f"{name}/{quote(row['name'])}")
            assert head.status in (200, 404, 409), row  # 404: it has expired
