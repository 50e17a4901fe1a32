"""DeleteObjects, on a real store."""

from __future__ import annotations

import base64
import hashlib

import pytest

from proxy.s3.deletes import parse_delete
from proxy.s3.xml import MalformedDocument, parse
from tests.proxy.s3.client import Answer, S3World


async def delete(world: S3World, body: bytes, md5: bool = True) -> Answer:
    """A DeleteObjects request."""
    headers = {"content-md5": base64.b64encode(hashlib.md5(body).digest()).decode()} if md5 else {}
    return await world.main("POST", "/bucket", body, headers, query="delete")


def document(*keys: str, quiet: bool = False) -> bytes:
    """A Delete document."""
    rows = "".join(f"<Object><Key>{key}</Key></Object>" for key in keys)
    return f"<Delete>{'<Quiet>true</Quiet>' if quiet else ''}{rows}</Delete>".encode()


async def test_many_keys_are_deleted_at_once(world: S3World) -> None:
    """In the order asked for, those that were not there too; quiet says nothing of successes."""
    keys = [f"key{i}" for i in range(40)]
    for key in keys:
        await world.main("PUT", "/bucket/" + key, b"x")
    answer = await delete(world, document(*keys, "missing"))
    assert answer.status == 200
    assert answer.texts("Deleted/Key") == [*keys, "missing"]
    assert answer.texts("Error/Key") == []
    assert (await world.main("GET", "/bucket")).texts("Contents/Key") == []
    assert (await delete(world, document(*keys, quiet=True))).texts("Deleted/Key") == []


async def test_each_key_has_its_own_outcome(world: S3World) -> None:
    """A key that cannot be deleted costs the others nothing."""
    main = world.main
    etag = (await main("PUT", "/bucket/a", b"x")).headers["etag"]
    for key in ("b", "c", "d"):
        await main("PUT", "/bucket/" + key, b"x")
    body = (
        "<Delete><Quiet>true</Quiet>"
        f"<Object><Key>a</Key><ETag>{etag.replace(chr(34), '&quot;')}</ETag></Object>"
        "<Object><Key>b</Key><ETag>other</ETag></Object>"
        "<Object><Key>c</Key><VersionId>null</VersionId></Object>"
        "<Object><Key>d</Key><VersionId>v1</VersionId></Object>"
        f"<Object><Key>{'k' * 1025}</Key></Object>"
        "<Object><Key>d</Key><Size>1</Size></Object>"
        "</Delete>"
    ).encode()
    answer = await delete(world, body)
    assert answer.texts("Error/Code") == ["PreconditionFailed", "NoSuchVersion", "KeyTooLongError", "NotImplemented"]
    assert (await main("GET", "/bucket")).texts("Contents/Key") == ["b", "d"]


async def test_a_digest_is_demanded(world: S3World) -> None:
    """Content-MD5 or a checksum, and it must be right."""
    assert (await delete(world, document("a"), md5=False)).code == "InvalidRequest"
    wrong = await world.main(
        "POST", "/bucket", document("a"), {"content-md5": "rL0Y20xC+Fzt72VPzMSk2A=="}, query="delete"
    )
    assert wrong.code == "BadDigest"
    with_checksum = await world.main(
        "POST", "/bucket", document("a"), {"x-amz-checksum-crc32": "AAAAAA=="}, query="delete"
    )
    assert with_checksum.code == "BadDigest"


async def test_a_missing_bucket_is_said_once(world: S3World) -> None:
    """NoSuchBucket for the whole request."""
    body = document("a")
    headers = {"content-md5": base64.b64encode(hashlib.md5(body).digest()).decode()}
    assert (await world.main("POST", "/nobody", body, headers, query="delete")).code == "NoSuchBucket"


async def test_documents_without_keys_are_malformed(world: S3World) -> None:
    """MalformedXML."""
    for body in (b"<Delete/>", b"<Delete><Object/></Delete>", b"<Delete><Object><Key/></Object></Delete>", b"<Other/>"):
        assert (await delete(world, body)).code == "MalformedXML"


async def test_bodies_have_bounds(world: S3World) -> None:
    """Nothing at all, and more than a document may be."""
    assert (await delete(world, b"")).code == "MissingRequestBodyError"
    assert (await delete(world, b"<Delete>" + b" " * 5 * 1024**2)).code == "MaxMessageLengthExceeded"


def test_a_thousand_keys_are_the_limit() -> None:
    """1,000 are read, 1,001 are malformed."""
    _, deletions = parse_delete(parse(document(*map(str, range(1000))), "Delete"))
    assert len(deletions) == 1000
    with pytest.raises(MalformedDocument):
        parse_delete(parse(document(*map(str, range(1001))), "Delete"))
