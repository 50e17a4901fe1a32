"""CopyObject, on a real store."""

from __future__ import annotations

import base64
import zlib
from urllib.parse import quote

import pytest

from proxy.s3.copying import CopySource, parse_copy_source
from proxy.s3.errors import S3Error
from tests.proxy.s3.client import S3World

LARGE = bytes(range(256)) * 4096 * 2
COPY = "x-amz-copy-source"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"bucket/key", CopySource(b"bucket", b"key")),
        (b"/bucket/key", CopySource(b"bucket", b"key")),
        (b"bucket%2Fa%2Fb", CopySource(b"bucket", b"a/b")),
        (b"bucket//a//b/", CopySource(b"bucket", b"/a//b/")),
        (b"bucket/a%20b+c%25", CopySource(b"bucket", b"a b+c%")),
        (b"bucket/%3FversionId", CopySource(b"bucket", b"?versionId")),
        (b"bucket/key?versionId=null", CopySource(b"bucket", b"key", "null")),
        (b"bucket/a%3FversionId%3Dx?versionId=y", CopySource(b"bucket", b"a?versionId=x", "y")),
    ],
)
def test_sources_are_read(value: bytes, expected: CopySource) -> None:
    """With and without a first slash, encoded in part or as a whole, with a version."""
    assert parse_copy_source(value) == expected


@pytest.mark.parametrize("value", [b"", b"/", b"bucket", b"bucket/", b"/bucket", b"//key"])
def test_sources_that_name_nothing_are_refused(value: bytes) -> None:
    """A source has a bucket and a key."""
    with pytest.raises(S3Error, match="InvalidArgument"):
        parse_copy_source(value)


@pytest.mark.parametrize("data", [b"", b"data", LARGE], ids=len)
async def test_a_copy_has_the_bytes_and_the_metadata(world: S3World, data: bytes) -> None:
    """COPY, the default, takes content type, metadata and tags over; REPLACE takes those of the request."""
    main = world.main
    headers = {"x-amz-meta-a": "1", "content-type": "audio/ogg", "x-amz-tagging": "t=1", "cache-control": "no-cache"}
    etag = (await main("PUT", "/bucket/source", data, headers)).headers["etag"]
    copied = await main("PUT", "/bucket/copy", headers={COPY: "bucket/source", "x-amz-meta-ignored": "x"})
    assert (copied.status, copied.text("ETag")) == (200, etag)
    assert (copied.text("LastModified") or "").endswith(".000Z")
    got = await main("GET", "/bucket/copy")
    assert got.body == data
    for name, value in (("x-amz-meta-a", "1"), ("content-type", "audio/ogg"), ("cache-control", "no-cache")):
        assert got.headers[name] == value
    assert got.headers["x-amz-tagging-count"] == "1"
    assert "x-amz-meta-ignored" not in got.headers
    replaced = {COPY: "bucket/source", "x-amz-metadata-directive": "REPLACE", "x-amz-meta-b": "2"}
    assert (await main("PUT", "/bucket/other", headers=replaced)).status == 200
    got = await main("GET", "/bucket/other")
    assert (got.body, got.headers["x-amz-meta-b"]) == (data, "2")
    assert got.headers["content-type"] == "binary/octet-stream"
    assert "x-amz-meta-a" not in got.headers


async def test_a_copy_onto_itself_must_change_something(world: S3World) -> None:
    """Without REPLACE it is illegal; with it the metadata changes and the bytes stay."""
    main = world.main
    await main("PUT", "/bucket/key", LARGE, {"x-amz-meta-a": "1"})
    refused = await main("PUT", "/bucket/key", headers={COPY: "bucket/key"})
    assert (refused.status, refused.code) == (400, "InvalidRequest")
    headers = {COPY: "bucket/key", "x-amz-metadata-directive": "REPLACE", "x-amz-meta-b": "2", "content-type": "a/b"}
    assert (await main("PUT", "/bucket/key", headers=headers)).status == 200
    got = await main("GET", "/bucket/key")
    assert (got.body, got.headers["x-amz-meta-b"], got.headers["content-type"]) == (LARGE, "2", "a/b")
    assert "x-amz-meta-a" not in got.headers


async def test_tags_have_a_directive_of_their_own(world: S3World) -> None:
    """x-amz-tagging-directive: REPLACE takes the request's tags, and leaves the metadata."""
    main = world.main
    await main("PUT", "/bucket/source", b"data", {"x-amz-tagging": "a=1", "x-amz-meta-a": "1"})
    headers = {COPY: "bucket/source", "x-amz-tagging-directive": "REPLACE", "x-amz-tagging": "b=2&c=3"}
    assert (await main("PUT", "/bucket/copy", headers=headers)).status == 200
    assert (await main("GET", "/bucket/copy", query="tagging")).texts("TagSet/Tag/Key") == ["b", "c"]
    assert (await main("HEAD", "/bucket/copy")).headers["x-amz-meta-a"] == "1"


@pytest.mark.parametrize("key", [" ", "_", "?versionId", "%25", "a/b//c", "größe"])
async def test_sources_of_every_odd_name(world: S3World, key: str) -> None:
    """The source's name is decoded once and looked up as it is."""
    main = world.main
    await main("PUT", "/bucket/" + key, b"data")
    assert (await main("PUT", "/bucket/copy", headers={COPY: "bucket/" + quote(key)})).status == 200
    assert (await main("GET", "/bucket/copy")).body == b"data"


async def test_sources_that_are_not_there(world: S3World) -> None:
    """404 says which is missing; another's bucket is 403; other versions are none."""
    main, other = world.main, world.other
    await main("PUT", "/bucket/key", b"data")
    await other("PUT", "/elsewhere")
    for client, source, target, status, code in (
        (main, "bucket/missing", "/bucket/copy", 404, "NoSuchKey"),
        (main, "missing/key", "/bucket/copy", 404, "NoSuchBucket"),
        (main, "bucket/key", "/missing/copy", 404, "NoSuchBucket"),
        (main, "bucket/key?versionId=x", "/bucket/copy", 404, "NoSuchVersion"),
        (other, "bucket/key", "/elsewhere/copy", 403, "AccessDenied"),
    ):
        answer = await client("PUT", target, headers={COPY: source})
        assert (answer.status, answer.code) == (status, code)
    null = await main("PUT", "/bucket/copy", headers={COPY: "bucket/key?versionId=null"})
    assert null.headers["x-amz-copy-source-version-id"] == "null"


async def test_conditions_on_the_source_and_on_the_target(world: S3World) -> None:
    """A source that does not meet its condition is 412, as is a target that does not meet its own."""
    main = world.main
    etag = (await main("PUT", "/bucket/key", b"data")).headers["etag"]
    for headers, status in (
        ({COPY + "-if-match": etag}, 200),
        ({COPY + "-if-match": "ABCORZ"}, 412),
        ({COPY + "-if-none-match": etag}, 412),
        ({COPY + "-if-none-match": "ABCORZ"}, 200),
        ({COPY + "-if-modified-since": "Sat, 29 Oct 1994 19:43:31 GMT"}, 200),
        ({COPY + "-if-modified-since": "Fri, 29 Oct 2100 19:43:31 GMT"}, 412),
        ({COPY + "-if-unmodified-since": "Sat, 29 Oct 1994 19:43:31 GMT"}, 412),
        ({"if-none-match": "*"}, 412),
    ):
        answer = await main("PUT", "/bucket/copy", headers={COPY: "bucket/key", **headers})
        assert answer.status == status, headers


async def test_checksums_stay_or_are_made(world: S3World) -> None:
    """A checksum is taken over; one that is asked for is computed over the bytes."""
    main = world.main
    crc32 = base64.b64encode(zlib.crc32(LARGE).to_bytes(4, "big")).decode()
    await main("PUT", "/bucket/with", LARGE, {"x-amz-checksum-crc32": crc32})
    await main("PUT", "/bucket/without", LARGE)
    for source, headers in (("with", {}), ("without", {"x-amz-checksum-algorithm": "CRC32"})):
        copied = await main("PUT", "/bucket/copy", headers={COPY: f"bucket/{source}", **headers})
        assert copied.text("ChecksumCRC32") == crc32
        head = await main("HEAD", "/bucket/copy", headers={"x-amz-checksum-mode": "ENABLED"})
        assert head.headers["x-amz-checksum-crc32"] == crc32
    unknown = {COPY: "bucket/with", "x-amz-checksum-algorithm": "CRC7"}
    assert (await main("PUT", "/bucket/copy", headers=unknown)).code == "InvalidArgument"


async def test_directives_are_checked(world: S3World) -> None:
    """COPY and REPLACE are all there is."""
    await world.main("PUT", "/bucket/key", b"data")
    headers = {COPY: "bucket/key", "x-amz-metadata-directive": "MERGE"}
    assert (await world.main("PUT", "/bucket/copy", headers=headers)).code == "InvalidArgument"
