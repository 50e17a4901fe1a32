"""Objects: PUT, GET, HEAD, POST and DELETE."""

from __future__ import annotations

import hashlib

import pytest

from tests.proxy.swift.conftest import Body, Cloud


def md5(data: bytes) -> str:
    """The etag of an object with this content."""
    return hashlib.md5(data).hexdigest()


@pytest.mark.parametrize("size_bytes", [0, 1, 4096, 1_500_000])
@pytest.mark.parametrize("chunked", [False, True])
async def test_what_is_put_is_got(cloud: Cloud, size_bytes: int, chunked: bool) -> None:
    """Bytes, etag, length and type come back, of small objects and large."""
    data = bytes(range(256)) * (size_bytes // 256 + 1)
    data = data[:size_bytes]
    put = await cloud.ask("PUT", "c/o", Body(data, chunked=chunked), content_length=str(size_bytes))
    assert (put.status, put.headers["etag"]) == (201, md5(data))
    assert put.headers["x-openstack-request-id"].startswith("tx")
    got = await cloud.ask("GET", "c/o")
    assert (got.status, got.body == data, got.length) == (200, True, size_bytes)
    assert got.headers["etag"] == md5(data)
    assert got.headers["content-type"] == "application/octet-stream"
    assert got.headers["accept-ranges"] == "bytes"
    assert got.headers["last-modified"] == put.headers["last-modified"]
    head = await cloud.ask("HEAD", "c/o")
    assert (head.status, head.body, head.length) == (200, b"", size_bytes)
    assert {**head.headers, "x-openstack-request-id": ""} == {**got.headers, "x-openstack-request-id": ""}


async def test_an_empty_chunked_body_is_an_object(cloud: Cloud) -> None:
    """No length but chunked framing is not a missing length."""
    assert (await cloud.ask("PUT", "c/o", Body(b"", chunked=True))).status == 201
    assert (await cloud.ask("HEAD", "c/o")).length == 0


async def test_uploads_that_are_refused(cloud: Cloud) -> None:
    """Each with its own status, and nothing stored."""
    assert (await cloud.ask("PUT", "c/o")).status == 411
    assert (await cloud.ask("PUT", "missing/o", b"x")).status == 404
    assert (await cloud.ask("PUT", "c/o", b"x", etag="0" * 32)).status == 422
    assert (await cloud.ask("PUT", "c/o", b"x", etag="rubbish")).status == 422
    assert (await cloud.ask("PUT", "c/" + "o" * 1025, b"x")).status == 400
    assert (await cloud.ask("PUT", "c/%FF", b"x")).status == 412
    assert (await cloud.ask("PUT", "c/o", b"x", x_object_meta_a=b"\xff")).status == 400
    assert (await cloud.ask("PUT", "c/o", b"x", x_delete_at="1")).status == 400
    assert (await cloud.ask("PUT", "c/o", b"x", content_type="x" * 2000)).status == 400
    huge = Body(b"")
    huge.length = 5 * 1024**3 + 1
    assert (await cloud.ask("PUT", "c/o", huge)).status == 413
    assert (await cloud.ask("PUT", "c/o", Body(b"half", torn=True))).status == 499
    assert (await cloud.ask("PUT", "c/o", Body(b"x" * 1_000_000, torn=True, chunked=True))).status == 499
    assert (await cloud.ask("GET", "c/o")).status == 404
    assert await cloud.names("c") == []


async def test_the_etag_header_is_checked(cloud: Cloud) -> None:
    """With quotes or without; capital letters are the same digits."""
    for etag in (md5(b"x"), f'"{md5(b"x")}"', md5(b"x").upper()):
        assert (await cloud.ask("PUT", "c/o", b"x", etag=etag)).status == 201


async def test_content_types(cloud: Cloud) -> None:
    """As given; else by the name's ending; always by the name where that is asked for."""
    for name, given, detect, expected in (
        ("a.txt", "x/y; charset=z", "", "x/y; charset=z"),
        ("a.HTML", "", "", "text/html"),
        ("a.unheardof", "", "", "application/octet-stream"),
        ("a/b.d/c", "", "", "application/octet-stream"),
        ("a.png", "x/y", "true", "image/png"),
    ):
        headers = {"content_type": given} if given else {}
        if detect:
            headers["x_detect_content_type"] = detect
        await cloud.put(f"c/{name}", b"x", **headers)
        assert (await cloud.ask("HEAD", f"c/{name}")).headers["content-type"] == expected


async def test_metadata_goes_with_the_object(cloud: Cloud) -> None:
    """PUT sets all of it, POST replaces all of it and keeps the content's type."""
    await cloud.put("c/o", content_type="a/b", content_encoding="gzip", x_object_meta_color="röt", x_object_meta_e="")
    head = (await cloud.ask("HEAD", "c/o")).headers
    assert (head["x-object-meta-color"], head["x-object-meta-e"], head["content-encoding"]) == ("röt", "", "gzip")
    posted = await cloud.ask("POST", "c/o", x_object_meta_new="1", content_disposition="inline")
    assert posted.status == 202
    head = (await cloud.ask("HEAD", "c/o")).headers
    assert (head["x-object-meta-new"], head["content-disposition"], head["content-type"]) == ("1", "inline", "a/b")
    assert not {"x-object-meta-color", "content-encoding"} & set(head)
    assert (await cloud.ask("POST", "c/o", content_type="c/d")).status == 202
    head = (await cloud.ask("HEAD", "c/o")).headers
    assert head["content-type"] == "c/d"
    assert "x-object-meta-new" not in head
    assert (await cloud.ask("GET", "c/o")).body == b"data"
    assert (await cloud.ask("GET", "c?format=json")).json()[0]["content_type"] == "c/d"


async def test_metadata_of_nothing(cloud: Cloud) -> None:
    """POST to what is not there is 404, with bad metadata 400."""
    assert (await cloud.ask("POST", "c/o", x_object_meta_a="1")).status == 404
    assert (await cloud.ask("POST", "missing/o", x_object_meta_a="1")).status == 404
    await cloud.put("c/o")
    assert (await cloud.ask("POST", "c/o", x_object_meta_a="v" * 257)).status == 400


async def test_deleting(cloud: Cloud) -> None:
    """204 once, 404 afterwards."""
    await cloud.put("c/o")
    assert (await cloud.ask("DELETE", "c/o")).status == 204
    assert (await cloud.ask("DELETE", "c/o")).status == 404
    assert (await cloud.ask("GET", "c/o")).status == 404
    assert (await cloud.ask("DELETE", "missing/o")).status == 404


async def test_objects_that_expire(cloud: Cloud) -> None:
    """From its second on an expired object is gone for every method, and its name can be used again."""
    await cloud.put("c/o", x_delete_after="60")
    assert (await cloud.ask("HEAD", "c/o")).headers["x-delete-at"] == str(int(cloud.time.now_s) + 60)
    cloud.time.now_s += 60
    for method in ("GET", "HEAD", "POST", "DELETE"):
        assert (await cloud.ask(method, "c/o")).status == 404
    await cloud.put("c/o")
    await cloud.put("c/p", x_delete_after="60")
    assert (await cloud.ask("POST", "c/p", x_object_meta_a="1")).status == 202
    cloud.time.now_s += 60
    assert (await cloud.ask("GET", "c/p")).status == 200
    assert (
        await cloud.ask("PUT", "c/q", b"", x_copy_from="c/p", x_delete_at=str(int(cloud.time.now_s) + 5))
    ).status == 201
    cloud.time.now_s += 5
    assert (await cloud.ask("GET", "c/q")).status == 404


async def test_ranges(cloud: Cloud) -> None:
    """One range, a suffix, several, none that fits; of small objects and of large."""
    for size_bytes in (1000, 700_000):
        data = bytes(i * 7 % 251 for i in range(size_bytes))
        await cloud.put("c/o", data, content_type="text/plain")
        part = await cloud.ask("GET", "c/o", range="bytes=10-19")
        assert (part.status, part.body) == (206, data[10:20])
        assert part.headers["content-range"] == f"bytes 10-19/{size_bytes}"
        assert (await cloud.ask("GET", "c/o", range="bytes=-5")).body == data[-5:]
        assert (await cloud.ask("GET", "c/o", range="bytes=990-")).body == data[990:]
        beyond = await cloud.ask("GET", "c/o", range=f"bytes={size_bytes}-")
        assert (beyond.status, beyond.headers["content-range"]) == (416, f"bytes */{size_bytes}")
        assert (await cloud.ask("GET", "c/o", range="rubbish")).status == 200
        several = await cloud.ask("GET", "c/o", range="bytes=0-4,100-299")
        assert several.status == 206
        assert several.headers["content-type"].startswith("multipart/byteranges;boundary=")
        boundary = several.headers["content-type"].partition("=")[2].encode()
        assert several.body.count(b"--" + boundary) == 3
        assert b"\r\n\r\n" + data[100:300] + b"\r\n" in several.body
    await cloud.put("c/empty", b"")
    assert (await cloud.ask("GET", "c/empty", range="bytes=0-")).status == 416
    assert (await cloud.ask("GET", "c/empty", range="bytes=-5")).status == 200


async def test_conditional_reads(cloud: Cloud) -> None:
    """304 and 412 as RFC 9110 has them."""
    etag = (await cloud.put("c/o")).headers["etag"]
    date = (await cloud.ask("HEAD", "c/o")).headers["last-modified"]
    long_ago = "Thu, 01 Jan 2015 00:00:00 GMT"
    for method in ("GET", "HEAD"):
        for headers, status in (
            ({"if_match": etag}, 200),
            ({"if_match": '"other", "*"'}, 200),
            ({"if_match": "other"}, 412),
            ({"if_none_match": f'"{etag}"'}, 304),
            ({"if_none_match": "*"}, 304),
            ({"if_none_match": "other"}, 200),
            ({"if_modified_since": date}, 304),
            ({"if_modified_since": long_ago}, 200),
            ({"if_modified_since": "rubbish"}, 200),
            ({"if_unmodified_since": date}, 200),
            ({"if_unmodified_since": long_ago}, 412),
            ({"if_none_match": "other", "if_modified_since": date}, 200),
        ):
            answer = await cloud.ask(method, "c/o", **headers)
            assert answer.status == status, headers
            if status == 304:
                assert answer.headers["etag"] == etag
    half = await cloud.ask("GET", "c/o", range="bytes=0-1", if_range=f'"{etag}"')
    assert half.status == 206
    assert (await cloud.ask("GET", "c/o", range="bytes=0-1", if_range='"other"')).status == 200


async def test_conditional_writes(cloud: Cloud) -> None:
    """Create only if absent, replace only what one knows."""
    assert (await cloud.ask("PUT", "c/o", b"1", if_none_match="*")).status == 201
    assert (await cloud.ask("PUT", "c/o", b"2", if_none_match="*")).status == 412
    assert (await cloud.ask("PUT", "c/o", b"2", if_none_match="abc")).status == 400
    assert (await cloud.ask("PUT", "c/o", b"2", if_match=md5(b"1"))).status == 201
    assert (await cloud.ask("PUT", "c/o", b"3", if_match=md5(b"1"))).status == 412
    assert (await cloud.ask("PUT", "c/new", b"3", if_match="*")).status == 412
    assert (await cloud.ask("DELETE", "c/o", if_match=md5(b"1"))).status == 412
    assert (await cloud.ask("DELETE", "c/gone", if_match="*")).status == 412
    assert (await cloud.ask("DELETE", "c/o", if_match=md5(b"2"))).status == 204


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "with space",
        "a/b//c/",
        "/leading",
        "ünï",
        "数学",
        "per%cent",
        "q?x=y&z#f",
        "..",
        "a/../b",
        "\n\x01",
        '"<>&',
    ],
)
async def test_names_of_every_kind(cloud: Cloud, name: str) -> None:
    """An object of any name is put, listed, got, copied and deleted."""
    from urllib.parse import quote

    await cloud.put(f"c/{quote(name)}", name.encode())
    assert [row["name"] for row in (await cloud.ask("GET", "c?format=json")).json()] == [name]
    assert (await cloud.ask("GET", f"c/{quote(name)}")).body == name.encode()
    copied = await cloud.ask("COPY", f"c/{quote(name)}", destination=f"/c/copy-{quote(name)}")
    assert copied.status == 201
    assert copied.headers["x-copied-from"] == quote(f"c/{name}")
    assert (await cloud.ask("GET", f"c/copy-{quote(name)}")).body == name.encode()
    assert (await cloud.ask("DELETE", f"c/{quote(name)}")).status == 204


async def test_x_newest(cloud: Cloud) -> None:
    """Asking all replicas gives the same answer while all is well."""
    await cloud.put("c/o")
    for value in ("true", "false", "rubbish"):
        assert (await cloud.ask("GET", "c/o", x_newest=value)).body == b"data"


async def test_methods_that_do_not_work(cloud: Cloud) -> None:
    """405 names the methods that do."""
    for path, method in (("c/o", "PATCH"), ("c", "COPY"), ("/v1/AUTH_science", "COPY")):
        answer = await cloud.ask(method, path)
        assert answer.status == 405
        assert "GET" in answer.headers["allow"]
    assert (await cloud.ask("OPTIONS", "c/o")).status == 200
