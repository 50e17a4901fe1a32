"""Operations on objects, on a real store."""

from __future__ import annotations

import base64
import hashlib
import zlib
from urllib.parse import unquote

import pytest
import trio

from tests.proxy.s3.client import Answer, S3World

LARGE = bytes(range(256)) * 4096 * 2
"""2 MiB: more than what travels in one frame."""


@pytest.mark.parametrize("data", [b"", b"x", b"0123456789" * 400, LARGE], ids=len)
async def test_what_was_put_is_what_one_gets(world: S3World, data: bytes) -> None:
    """Bytes, length, etag and dates, by GET and by HEAD; then it is deleted."""
    main = world.main
    etag = f'"{hashlib.md5(data).hexdigest()}"'
    put = await main("PUT", "/bucket/key", data)
    assert (put.status, put.headers["etag"]) == (200, etag)
    got = await main("GET", "/bucket/key")
    assert (got.status, got.body, got.headers["etag"]) == (200, data, etag)
    assert got.headers["content-type"] == "binary/octet-stream"
    assert got.headers["accept-ranges"] == "bytes"
    head = await main("HEAD", "/bucket/key")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(data)))
    assert head.headers["last-modified"] == got.headers["last-modified"]
    assert (await main("DELETE", "/bucket/key")).status == 204
    gone = await main("GET", "/bucket/key")
    assert (gone.status, gone.code, gone.xml.findtext("Key")) == (404, "NoSuchKey", "key")
    head = await main("HEAD", "/bucket/key")
    assert (head.status, head.body) == (404, b"")
    assert (await main("DELETE", "/bucket/key")).status == 204


async def test_objects_of_no_bucket(world: S3World) -> None:
    """NoSuchBucket, not NoSuchKey."""
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        answer = await world.main(method, "/nobody/key")
        assert answer.status == 404
        assert method == "HEAD" or answer.code == "NoSuchBucket"


ODD_KEYS = [
    " ",
    "//",
    "a//b/",
    "/",
    ".",
    "..",
    "a/../b",
    "a/./b",
    "?a=b&c#d",
    "%2F%25",
    "+ +",
    "käse/日本語/🎈",
    "\x01\n\t\x7f",
    "&<>\"'",
    "x" * 1024,
]


async def test_names_of_every_odd_kind(world: S3World) -> None:
    """A key is stored, listed, read and deleted under the very name that it was given."""
    main = world.main
    for key in ODD_KEYS:
        assert (await main("PUT", "/bucket/" + key, key.encode())).status == 200, key
    listed = await main("GET", "/bucket", query="list-type=2&encoding-type=url")
    assert [unquote(name) for name in listed.texts("Contents/Key")] == sorted(ODD_KEYS, key=str.encode)
    for key in ODD_KEYS:
        assert (await main("GET", "/bucket/" + key)).body == key.encode()
        assert (await main("DELETE", "/bucket/" + key)).status == 204
    assert (await main("GET", "/bucket")).texts("Contents/Key") == []


async def test_names_that_no_key_can_have(world: S3World) -> None:
    """Refused with the error that says why."""
    for target, code in (
        ("/bucket/" + "x" * 1025, "KeyTooLongError"),
        ("/bucket/%ff", "InvalidURI"),
        ("/bucket/a%00b", "InvalidURI"),
    ):
        answer = await world.main.raw("PUT", target, b"data", {})
        assert (answer.status, answer.code) == (400, code)


@pytest.mark.parametrize("data", [b"testcontent", LARGE], ids=len)
async def test_ranges(world: S3World, data: bytes) -> None:
    """206 with the bytes asked for, by GET and by HEAD."""
    await world.main("PUT", "/bucket/key", data)
    for value in ("bytes=4-7", "bytes=4-", "bytes=-7", "bytes=0-0", "bytes=3-999999999"):
        first, _, last = value[6:].partition("-")
        start = int(first) if first else len(data) - int(last)
        stop = min(int(last) + 1, len(data)) if first and last else len(data)
        got = await world.main("GET", "/bucket/key", headers={"range": value})
        assert (got.status, got.body) == (206, data[start:stop])
        assert got.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(data)}"
        assert got.length == stop - start
        head = await world.main("HEAD", "/bucket/key", headers={"range": value})
        assert (head.status, head.headers["content-length"]) == (206, str(stop - start))


async def test_ranges_that_are_none(world: S3World) -> None:
    """Several ranges give the whole; one outside is 416; If-Range decides whether a range counts."""
    main = world.main
    etag = (await main("PUT", "/bucket/key", b"testcontent")).headers["etag"]
    for value in ("bytes=0-1,3-4", "bytes=x-y"):
        got = await main("GET", "/bucket/key", headers={"range": value})
        assert (got.status, got.body) == (200, b"testcontent")
    outside = await main("GET", "/bucket/key", headers={"range": "bytes=40-50"})
    assert (outside.status, outside.code) == (416, "InvalidRange")
    assert outside.headers["content-range"] == "bytes */11"
    assert outside.xml.findtext("ActualObjectSize") == "11"
    for if_range, status in ((etag, 206), ('"other"', 200)):
        got = await main("GET", "/bucket/key", headers={"range": "bytes=0-1", "if-range": if_range})
        assert got.status == status


async def test_conditional_reads(world: S3World) -> None:
    """304 and 412 as RFC 9110 has them; a 304 has the headers that caches need."""
    main = world.main
    await main("PUT", "/bucket/key", b"data", headers={"cache-control": "max-age=5"})
    head = (await main("HEAD", "/bucket/key")).headers
    etag, modified = head["etag"], head["last-modified"]
    before, after = "Sat, 29 Oct 1994 19:43:31 GMT", "Fri, 29 Oct 2100 19:43:31 GMT"
    for headers, status in (
        ({"if-match": etag}, 200),
        ({"if-match": '"other"'}, 412),
        ({"if-match": "*"}, 200),
        ({"if-none-match": etag}, 304),
        ({"if-none-match": '"other", ' + etag}, 304),
        ({"if-none-match": '"other"'}, 200),
        ({"if-modified-since": before}, 200),
        ({"if-modified-since": modified}, 304),
        ({"if-unmodified-since": before}, 412),
        ({"if-unmodified-since": modified}, 200),
        ({"if-unmodified-since": after}, 200),
        ({"if-match": etag, "if-unmodified-since": before}, 200),
        ({"if-none-match": '"other"', "if-modified-since": after}, 200),
    ):
        for method in ("GET", "HEAD"):
            answer = await main(method, "/bucket/key", headers=headers)
            assert answer.status == status, headers
            if status == 304:
                assert (answer.headers["etag"], answer.headers["cache-control"]) == (etag, "max-age=5")
                assert answer.body == b""
            if status == 412 and method == "GET":
                assert answer.code == "PreconditionFailed"
                assert answer.xml.findtext("Condition") in ("If-Match", "If-Unmodified-Since")


async def test_conditional_writes(world: S3World) -> None:
    """If-None-Match: * creates once; If-Match replaces and deletes what one knows."""
    main = world.main
    created = await main("PUT", "/bucket/key", b"one", headers={"if-none-match": "*"})
    assert created.status == 200
    again = await main("PUT", "/bucket/key", b"two", headers={"if-none-match": "*"})
    assert (again.status, again.code) == (412, "PreconditionFailed")
    wrong = await main("PUT", "/bucket/key", b"two", headers={"if-match": '"other"'})
    assert (wrong.status, wrong.code) == (412, "PreconditionFailed")
    assert (await main("GET", "/bucket/key")).body == b"one"
    assert (await main("PUT", "/bucket/key", b"two", headers={"if-match": created.headers["etag"]})).status == 200
    nothing = await main("PUT", "/bucket/missing", b"x", headers={"if-match": "*"})
    assert (nothing.status, nothing.code) == (404, "NoSuchKey")
    stale = await main("DELETE", "/bucket/key", headers={"if-match": created.headers["etag"]})
    assert (stale.status, stale.code) == (412, "PreconditionFailed")
    assert (await main("DELETE", "/bucket/key", headers={"if-match": "*"})).status == 204
    assert (await main("DELETE", "/bucket/key", headers={"if-match": "*"})).status == 204


async def test_racing_conditional_writes(world: S3World) -> None:
    """Of many who create the same object at once exactly one succeeds, and it is that one's bytes that are read."""
    answers: dict[bytes, Answer] = {}

    async def create(data: bytes) -> None:
        answers[data] = await world.main("PUT", "/bucket/key", data, {"if-none-match": "*"})

    async with trio.open_nursery() as nursery:
        for index in range(8):
            nursery.start_soon(create, b"%d" % index)
    winners = [data for data, answer in answers.items() if answer.status == 200]
    assert len(winners) == 1
    assert {answer.code for answer in answers.values() if answer.status != 200} <= {
        "PreconditionFailed",
        "ConditionalRequestConflict",
    }
    assert (await world.main("GET", "/bucket/key")).body == winners[0]


async def test_digests_of_the_body(world: S3World) -> None:
    """A body that is not what the client announced stores nothing."""
    main = world.main
    md5 = base64.b64encode(hashlib.md5(b"data").digest()).decode()
    crc32 = base64.b64encode(zlib.crc32(b"data").to_bytes(4, "big")).decode()
    for headers, code in (
        ({"content-md5": md5[::-1]}, "InvalidDigest"),
        ({"content-md5": "YWJyYWNhZGFicmE="}, "InvalidDigest"),
        ({"content-md5": ""}, "InvalidDigest"),
        ({"content-md5": "rL0Y20xC+Fzt72VPzMSk2A=="}, "BadDigest"),
        ({"x-amz-checksum-crc32": "AAAAAA=="}, "BadDigest"),
    ):
        refused = await main("PUT", "/bucket/key", b"data", headers=headers)
        assert (refused.status, refused.code) == (400, code), headers
    assert (await main("GET", "/bucket/key")).status == 404
    put = await main("PUT", "/bucket/key", b"data", headers={"content-md5": md5, "x-amz-checksum-crc32": crc32})
    assert put.status == 200
    assert put.headers["x-amz-checksum-crc32"] == crc32
    plain = await main("GET", "/bucket/key")
    assert "x-amz-checksum-crc32" not in plain.headers
    shown = await main("HEAD", "/bucket/key", headers={"x-amz-checksum-mode": "ENABLED"})
    assert shown.headers["x-amz-checksum-crc32"] == crc32
    assert shown.headers["x-amz-checksum-type"] == "FULL_OBJECT"
    ranged = await main("GET", "/bucket/key", headers={"x-amz-checksum-mode": "ENABLED", "range": "bytes=0-1"})
    assert "x-amz-checksum-crc32" not in ranged.headers


async def test_metadata_and_overrides(world: S3World) -> None:
    """Headers come back as sent; the next PUT replaces all of them; the query overrides them for one answer."""
    main = world.main
    await main(
        "PUT", "/bucket/key", b"data", headers={"x-amz-meta-a": "1", "content-type": "text/x", "expires": "never"}
    )
    got = await main("GET", "/bucket/key")
    assert (got.headers["x-amz-meta-a"], got.headers["content-type"], got.headers["expires"]) == (
        "1",
        "text/x",
        "never",
    )
    query = "response-content-type=foo%2Fbar&response-content-disposition=bla&response-expires=123"
    over = await main("GET", "/bucket/key", query=query)
    assert over.headers["content-type"] == "foo/bar"
    assert over.headers["content-disposition"] == "bla"
    assert over.headers["expires"] == "123"
    await main("PUT", "/bucket/key", b"data")
    got = await main("GET", "/bucket/key")
    assert "x-amz-meta-a" not in got.headers
    large = await main("PUT", "/bucket/key", b"data", headers={"x-amz-meta-a": "x" * 2048})
    assert (large.status, large.code) == (400, "MetadataTooLarge")


async def test_versions_are_null(world: S3World) -> None:
    """versionId=null is the object; every other is none."""
    main = world.main
    await main("PUT", "/bucket/key", b"data")
    assert (await main("GET", "/bucket/key", query="versionId=null")).body == b"data"
    assert (await main("GET", "/bucket/key", query="versionId=abc")).code == "NoSuchVersion"
    assert (await main("DELETE", "/bucket/key", query="versionId=abc")).code == "NoSuchVersion"
    assert (await main("DELETE", "/bucket/key", query="versionId=null")).status == 204
    assert (await main("GET", "/bucket/key")).status == 404


async def test_parts_of_what_was_not_uploaded_in_parts(world: S3World) -> None:
    """Part 1 is the object; there is no other."""
    main = world.main
    await main("PUT", "/bucket/key", b"body")
    assert (await main("GET", "/bucket/key", query="partNumber=1")).body == b"body"
    assert (await main("GET", "/bucket/key", query="partNumber=2")).code == "InvalidPart"
    assert (await main("GET", "/bucket/key", query="partNumber=0")).code == "InvalidArgument"
    both = await main("GET", "/bucket/key", query="partNumber=1", headers={"range": "bytes=0-1"})
    assert both.code == "InvalidRequest"


async def test_attributes(world: S3World) -> None:
    """GetObjectAttributes gives what was asked for."""
    main = world.main
    await main("PUT", "/bucket/key", b"body")
    answer = await main(
        "GET", "/bucket/key", query="attributes", headers={"x-amz-object-attributes": "ETag,ObjectSize,StorageClass"}
    )
    assert answer.text("ETag") == hashlib.md5(b"body").hexdigest()
    assert (answer.text("ObjectSize"), answer.text("StorageClass")) == ("4", "STANDARD")
    assert answer.text("ObjectParts") is None
    assert (await main("GET", "/bucket/key", query="attributes")).code == "InvalidArgument"


async def test_expected_owners(world: S3World) -> None:
    """A client that expects another owner is refused."""
    main = world.main
    right = {"x-amz-expected-bucket-owner": main.user.id}
    assert (await main("GET", "/bucket", headers=right)).status == 200
    wrong = await main("GET", "/bucket", headers={"x-amz-expected-bucket-owner": main.user.id + "foo"})
    assert (wrong.status, wrong.code) == (403, "AccessDenied")


async def test_preflights_are_refused_politely(world: S3World) -> None:
    """No bucket has CORS rules; a preflight says so without a signature."""
    main = world.main
    assert (await main("OPTIONS", "/bucket/key", sign=False)).code == "BadRequest"
    headers = {"origin": "http://example.org", "access-control-request-method": "GET"}
    refused = await main("OPTIONS", "/bucket/key", headers=headers, sign=False)
    assert (refused.status, refused.code) == (403, "AccessForbidden")
