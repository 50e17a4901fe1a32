"""Large objects: static, dynamic, and what S3 uploaded in parts."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson
import pytest

from proxy.model import Manifest, PutObjectRequest, Segment
from proxy.user_store import BytesBody
from tests.proxy.swift.conftest import Cloud


def md5(data: bytes) -> str:
    """The etag of an object with this content."""
    return hashlib.md5(data).hexdigest()


PIECES = [b"a" * 100, b"b" * 150_000, b"c" * 700_000]
WHOLE = b"".join(PIECES)
ETAG = md5("".join(md5(piece) for piece in PIECES).encode())


async def segments(cloud: Cloud) -> list[dict[str, Any]]:
    """Three segments in a container of their own, and the manifest that names them."""
    await cloud.ask("PUT", "s")
    for number, piece in enumerate(PIECES):
        await cloud.put(f"s/big/{number}", piece)
    return [
        {"path": f"/s/big/{number}", "etag": md5(piece), "size_bytes": len(piece)}
        for number, piece in enumerate(PIECES)
    ]


async def put_manifest(cloud: Cloud, manifest: Any, path: str = "c/big", **headers: str) -> Any:
    """PUT a manifest."""
    return await cloud.ask("PUT", f"{path}?multipart-manifest=put", orjson.dumps(manifest), **headers)


async def test_a_static_large_object(cloud: Cloud) -> None:
    """It reads as one object, by its own etag, in any range; its list can be got and put again."""
    manifest = await segments(cloud)
    put = await put_manifest(cloud, manifest, etag=ETAG, x_object_meta_a="1", content_type="x/y")
    assert (put.status, put.headers["etag"]) == (201, f'"{ETAG}"')
    got = await cloud.ask("GET", "c/big")
    assert (got.status, got.body == WHOLE, got.headers["etag"]) == (200, True, f'"{ETAG}"')
    assert (got.headers["x-static-large-object"], got.headers["x-object-meta-a"]) == ("True", "1")
    head = await cloud.ask("HEAD", "c/big")
    assert (head.length, head.headers["content-type"]) == (len(WHOLE), "x/y")
    part = await cloud.ask("GET", "c/big", range="bytes=90-200000")
    assert (part.status, part.body == WHOLE[90:200001]) == (206, True)
    several = await cloud.ask("GET", "c/big", range="bytes=99-100,150099-150100")
    assert b"\r\n\r\nab\r\n" in several.body
    assert b"\r\n\r\nbc\r\n" in several.body
    assert (await cloud.ask("GET", "c/big", if_none_match=ETAG)).status == 304
    rows = (await cloud.ask("GET", "c?format=json")).json()
    assert [(row["name"], row["bytes"], row["hash"]) for row in rows] == [("big", len(WHOLE), ETAG)]
    listed = await cloud.ask("GET", "c/big?multipart-manifest=get")
    assert [(row["name"], row["bytes"], row["hash"]) for row in listed.json()] == [
        (row["path"], row["size_bytes"], row["etag"]) for row in manifest
    ]
    assert listed.headers["content-type"].startswith("application/json")
    head = await cloud.ask("HEAD", "c/big?multipart-manifest=get")
    assert (head.length, head.headers["etag"]) == (len(listed.body), md5(listed.body))
    raw = await cloud.ask("GET", "c/big?multipart-manifest=get&format=raw")
    assert (await cloud.ask("PUT", "c/again?multipart-manifest=put", raw.body)).headers["etag"] == f'"{ETAG}"'


async def test_ranges_of_segments(cloud: Cloud) -> None:
    """A segment may be a piece of an object, and an object may be in it twice."""
    manifest = await segments(cloud)
    manifest[1] |= {"range": "10-19"}
    manifest[2] |= {"range": "-5"}
    assert (await put_manifest(cloud, [*manifest, manifest[0]])).status == 201
    assert (await cloud.ask("GET", "c/big")).body == PIECES[0] + PIECES[1][10:20] + PIECES[2][-5:] + PIECES[0]
    rows = (await cloud.ask("GET", "c/big?multipart-manifest=get")).json()
    assert [row.get("range") for row in rows] == [None, "10-19", f"{len(PIECES[2]) - 5}-{len(PIECES[2]) - 1}", None]


async def test_manifests_that_are_refused(cloud: Cloud) -> None:
    """Every segment that is wrong is told, as text or as JSON, and nothing is stored."""
    manifest = await segments(cloud)
    await cloud.put("s/empty", b"")
    wrong = [
        {"path": "/s/big/0", "etag": "0" * 32},
        {"path": "/s/big/1", "size_bytes": 1},
        {"path": "/s/missing"},
        {"path": "/none/x"},
        {"path": "/s/empty"},
        {"path": "/s/big/0", "range": "500-"},
        manifest[2],
    ]
    refused = await put_manifest(cloud, wrong, accept="application/json")
    assert refused.status == 400
    assert [problem for _, problem in refused.json()["Errors"]] == [
        "Etag Mismatch",
        "Size Mismatch",
        "404 Not Found",
        "404 Not Found",
        "Too Small; each segment must be at least 1 byte.",
        "Unsatisfiable Range",
    ]
    assert "/s/missing, 404 Not Found" in (await put_manifest(cloud, wrong)).lines
    assert (await put_manifest(cloud, [{"path": "/c/big"}])).status == 409
    assert (await put_manifest(cloud, manifest, etag="0" * 32)).status == 422
    assert (await put_manifest(cloud, [manifest[0]] * 21)).status == 413
    assert (await put_manifest(cloud, manifest, path="none/big")).status == 404
    assert (await put_manifest(cloud, {})).status == 400
    assert (await cloud.ask("GET", "c/big")).status == 404


async def test_segments_that_changed(cloud: Cloud) -> None:
    """An object whose segment was overwritten or deleted is 409 rather than other bytes."""
    await put_manifest(cloud, await segments(cloud))
    await cloud.put("s/big/0", b"other")
    assert (await cloud.ask("GET", "c/big")).status == 409
    await put_manifest(cloud, await segments(cloud))
    await cloud.put("s/big/1", b"other")
    with pytest.raises(Exception, match="segment"):  # the answer has begun: it breaks off
        await cloud.ask("GET", "c/big")


async def test_manifests_within_manifests(cloud: Cloud) -> None:
    """A static large object can be a segment of another."""
    await put_manifest(cloud, await segments(cloud))
    assert (await put_manifest(cloud, [{"path": "/c/big"}, {"path": "/s/big/0"}], path="c/outer")).status == 201
    assert (await cloud.ask("GET", "c/outer")).body == WHOLE + PIECES[0]
    deleted = await cloud.ask("DELETE", "c/outer?multipart-manifest=delete", accept="application/json")
    assert (deleted.status, deleted.json()["Number Deleted"]) == (200, 5)
    assert await cloud.names("c") == await cloud.names("s") == []


async def test_deleting_with_the_segments(cloud: Cloud) -> None:
    """?multipart-manifest=delete takes the segments along; a plain DELETE leaves them."""
    await put_manifest(cloud, await segments(cloud))
    assert (await cloud.ask("DELETE", "c/big")).status == 204
    assert len(await cloud.names("s")) == 3
    await put_manifest(cloud, await segments(cloud))
    await cloud.ask("DELETE", "s/big/1")
    gone = (await cloud.ask("DELETE", "c/big?multipart-manifest=delete", accept="application/json")).json()
    assert (gone["Number Deleted"], gone["Number Not Found"], gone["Response Status"]) == (3, 1, "200 OK")
    await cloud.put("c/plain")
    plain = (await cloud.ask("DELETE", "c/plain?multipart-manifest=delete", accept="application/json")).json()
    assert (plain["Response Status"], len(plain["Errors"])) == ("400 Bad Request", 1)
    none = (await cloud.ask("DELETE", "c/none?multipart-manifest=delete", accept="application/json")).json()
    assert (none["Response Status"], none["Number Not Found"]) == ("404 Not Found", 1)
    assert await cloud.names("c") == ["plain"]


async def test_a_post_keeps_the_manifest(cloud: Cloud) -> None:
    """New metadata for a large object leaves it one."""
    await put_manifest(cloud, await segments(cloud))
    assert (await cloud.ask("POST", "c/big", x_object_meta_b="2")).status == 202
    got = await cloud.ask("GET", "c/big")
    assert (got.body == WHOLE, got.headers["x-object-meta-b"]) == (True, "2")


async def test_a_dynamic_large_object(cloud: Cloud) -> None:
    """It is whatever segments there are when it is asked for."""
    await segments(cloud)
    put = await cloud.put("c/big", b"", x_object_manifest="s/big%2F")
    assert put.headers["etag"] == md5(b"")
    got = await cloud.ask("GET", "c/big")
    assert (got.body == WHOLE, got.headers["etag"]) == (True, f'"{ETAG}"')
    assert got.headers["x-object-manifest"] == "s/big%2F"
    assert "x-static-large-object" not in got.headers
    assert (await cloud.ask("HEAD", "c/big")).length == len(WHOLE)
    assert (await cloud.ask("GET", "c/big", range="bytes=95-104")).body == b"aaaaabbbbb"
    assert (await cloud.ask("GET", "c/big", if_none_match=ETAG)).status == 304
    await cloud.put("s/big/3", b"more")
    assert (await cloud.ask("GET", "c/big")).body == WHOLE + b"more"
    raw = await cloud.ask("GET", "c/big?multipart-manifest=get")
    assert (raw.body, raw.headers["etag"]) == (b"", md5(b""))
    await cloud.ask("DELETE", "c/big")
    assert len(await cloud.names("s")) == 4


async def test_dynamic_manifests_of_nothing(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """No segments are an empty object, no container too; too many are a conflict."""
    monkeypatch.setattr("proxy.dynamic.SEGMENTS_MAX", 5)
    await cloud.put("c/big", b"", x_object_manifest="none/x")
    got = await cloud.ask("GET", "c/big")
    assert (got.status, got.body) == (200, b"")
    await cloud.put("c/many", b"", x_object_manifest="c/seg")
    for number in range(6):
        await cloud.put(f"c/seg{number:03}", b"x")
    assert (await cloud.ask("GET", "c/many")).status == 409


async def test_what_s3_uploaded_in_parts(cloud: Cloud) -> None:
    """A multipart upload reads as a large object whose parts have no names."""
    await cloud.store.create_container("AUTH_science", b"\x00uploads", {})
    pieces = []
    for number, piece in enumerate(PIECES):
        name = b"part%d" % number
        info = await cloud.store.put_object("AUTH_science", b"\x00uploads", name, BytesBody(piece), PutObjectRequest())
        pieces.append(Segment("AUTH_science", b"\x00uploads", name, len(piece), info.etag))
    await cloud.store.put_manifest(
        "AUTH_science", b"c", b"big", Manifest(tuple(pieces), owned=True), f"{ETAG}-3", len(WHOLE), PutObjectRequest()
    )
    got = await cloud.ask("GET", "c/big")
    assert (got.body == WHOLE, got.headers["etag"]) == (True, f'"{ETAG}"')
    assert got.headers["x-static-large-object"] == "True"
    assert (await cloud.ask("GET", "c/big?multipart-manifest=get")).json() == []
    copied = await cloud.ask("COPY", "c/big?multipart-manifest=get", destination="c/copy")
    assert (copied.status, copied.headers["etag"]) == (201, md5(WHOLE))
    assert (await cloud.ask("DELETE", "c/big?multipart-manifest=delete")).status == 200
    assert (await cloud.ask("GET", "c/copy")).body == WHOLE


async def test_what_s3_sees_of_large_objects(cloud: Cloud) -> None:
    """The model has them as manifests whose etag is no MD5, so that an S3 client does not take it for one."""
    await put_manifest(cloud, await segments(cloud))
    await cloud.put("c/dynamic", b"", x_object_manifest="s/big/")
    for name in (b"big", b"dynamic"):
        opened = await cloud.store.open_object("AUTH_science", b"c", name)
        assert (opened.info.etag, opened.info.size_bytes) == (f"{ETAG}-3", len(WHOLE))
        stream = opened.stream(90, 200_000)
        pieces = []
        while piece := await stream.read():
            pieces.append(bytes(piece))
        await stream.aclose()
        assert b"".join(pieces) == WHOLE[90:200_000]


async def test_conditional_writes_of_large_objects(cloud: Cloud) -> None:
    """If-Match means the etag that the client was shown."""
    await put_manifest(cloud, await segments(cloud))
    assert (await cloud.ask("PUT", "c/big", b"x", if_match="other")).status == 412
    assert (await cloud.ask("PUT", "c/big", b"x", if_match=f'"{ETAG}"')).status == 201
    await put_manifest(cloud, await segments(cloud))
    assert (await cloud.ask("DELETE", "c/big", if_match=ETAG)).status == 204
