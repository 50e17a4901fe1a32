"""Multipart uploads, on a real store."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Sequence
from urllib.parse import quote

import trio

from proxy.http.message import Request
from proxy.model import ListQuery
from proxy.s3.app import S3App
from proxy.s3.settings import PART_BYTES_MIN, S3Settings
from proxy.s3.upload_names import parts_container
from tests.proxy.s3.client import Answer, S3Client, S3World

FIRST = b"A" * PART_BYTES_MIN
LAST = b"the last part"


async def begin(client: S3Client, key: str = "key", headers: dict[str, str] | None = None) -> str:
    """A new upload's id."""
    answer = await client("POST", f"/bucket/{key}", headers=headers, query="uploads")
    assert answer.status == 200, answer
    return answer.text("UploadId") or ""


async def send(client: S3Client, upload_id: str, number: int, data: bytes, key: str = "key") -> str:
    """Upload a part; its etag."""
    answer = await client("PUT", f"/bucket/{key}", data, query=f"partNumber={number}&uploadId={upload_id}")
    assert answer.status == 200, answer
    return answer.headers["etag"]


async def finish(
    client: S3Client,
    upload_id: str,
    parts: Sequence[tuple[int, str]],
    key: str = "key",
    headers: dict[str, str] | None = None,
) -> Answer:
    """Complete an upload."""
    rows = "".join(f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>" for number, etag in parts)
    body = f"<CompleteMultipartUpload>{rows}</CompleteMultipartUpload>".encode()
    return await client("POST", f"/bucket/{key}", body, headers, query=f"uploadId={upload_id}")


async def part_names(world: S3World) -> list[bytes]:
    """The parts that the store holds."""
    try:
        listing = await world.store.list_objects(world.main.user.account, parts_container(b"bucket"), ListQuery())
    except Exception:
        return []
    return [item.name for item in listing.items if hasattr(item, "name")]


async def test_an_upload_becomes_an_object(world: S3World) -> None:
    """Parts in any order, any ascending numbers; etag, metadata, ranges, parts, listing; its parts go with it."""
    main = world.main
    upload_id = await begin(main, headers={"content-type": "text/bla", "x-amz-meta-foo": "bar"})
    second = await send(main, upload_id, 7, LAST)
    first = await send(main, upload_id, 2, FIRST)
    assert (await main("GET", "/bucket/key")).code == "NoSuchKey"
    assert (await main("GET", "/bucket")).texts("Contents/Key") == []
    done = await finish(main, upload_id, [(2, first), (7, second)])
    digests = hashlib.md5(FIRST).digest() + hashlib.md5(LAST).digest()
    etag = f'"{hashlib.md5(digests).hexdigest()}-2"'
    assert (done.status, done.text("ETag"), done.text("Bucket"), done.text("Key")) == (200, etag, "bucket", "key")
    assert done.text("Location") == "http://localhost/bucket/key"
    got = await main("GET", "/bucket/key")
    assert got.body == FIRST + LAST
    assert (got.headers["etag"], got.headers["content-type"], got.headers["x-amz-meta-foo"]) == (
        etag,
        "text/bla",
        "bar",
    )
    across = await main("GET", "/bucket/key", headers={"range": f"bytes={PART_BYTES_MIN - 2}-{PART_BYTES_MIN + 2}"})
    assert (across.status, across.body) == (206, b"AAthe")
    part = await main("GET", "/bucket/key", query="partNumber=7")
    assert (part.status, part.body, part.headers["x-amz-mp-parts-count"]) == (206, LAST, "2")
    assert part.headers["content-range"] == f"bytes {PART_BYTES_MIN}-{len(FIRST + LAST) - 1}/{len(FIRST + LAST)}"
    assert (await main("HEAD", "/bucket/key", query="partNumber=2")).headers["content-length"] == str(PART_BYTES_MIN)
    assert (await main("GET", "/bucket/key", query="partNumber=3")).code == "InvalidPart"
    listed = await main("GET", "/bucket")
    assert listed.texts("Contents/Size") == [str(len(FIRST + LAST))]
    assert (await main("GET", "/bucket", query="uploads")).texts("Upload/UploadId") == []
    attributes = await main(
        "GET", "/bucket/key", query="attributes", headers={"x-amz-object-attributes": "ObjectParts,ObjectSize"}
    )
    assert attributes.text("ObjectParts/PartsCount") == "2"
    assert attributes.texts("ObjectParts/Part/PartNumber") == ["2", "7"]
    await main("DELETE", "/bucket/key")
    with trio.fail_after(60):
        while await part_names(world):
            await trio.sleep(0.01)


async def test_completing_twice_is_completing_once(world: S3World) -> None:
    """A repeated request, its answer lost, gets the same answer; with other parts it does not."""
    main = world.main
    upload_id = await begin(main)
    etag = await send(main, upload_id, 1, LAST)
    first = await finish(main, upload_id, [(1, etag)])
    again = await finish(main, upload_id, [(1, etag)])
    assert (first.status, again.status) == (200, 200)
    assert again.text("ETag") == first.text("ETag")
    assert (await finish(main, upload_id, [(1, "f" * 32)])).code == "InvalidPart"
    await main("PUT", "/bucket/key", b"something else")
    assert (await finish(main, upload_id, [(1, etag)])).code == "NoSuchUpload"
    assert (await main("DELETE", "/bucket/key", query=f"uploadId={upload_id}")).code == "NoSuchUpload"


async def test_two_completions_at_once_make_one_object(world: S3World) -> None:
    """Of racing completions one goes first; the other is told to try again, or gets the same answer."""
    main = world.main
    upload_id = await begin(main)
    etag = await send(main, upload_id, 1, LAST)
    answers: list[Answer] = []

    async def run() -> None:
        answers.append(await finish(main, upload_id, [(1, etag)]))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(run)
    statuses = sorted(answer.status for answer in answers)
    assert statuses[0] == 200
    assert set(statuses) <= {200, 503}
    assert (await main("GET", "/bucket/key")).body == LAST
    assert len(await part_names(world)) == 1


async def test_aborting_leaves_nothing(world: S3World) -> None:
    """The parts go, the object that was there stays."""
    main = world.main
    await main("PUT", "/bucket/key", b"old")
    upload_id = await begin(main)
    await send(main, upload_id, 1, LAST)
    await send(main, upload_id, 1, LAST)
    assert len(await part_names(world)) == 2
    query = f"uploadId={upload_id}"
    assert (await main("DELETE", "/bucket/key", query=query)).status == 204
    assert await part_names(world) == []
    assert (await main("GET", "/bucket/key")).body == b"old"
    for again in (
        await main("DELETE", "/bucket/key", query=query),
        await main("GET", "/bucket/key", query=query),
        await main("PUT", "/bucket/key", b"x", query=query + "&partNumber=1"),
        await finish(main, upload_id, [(1, "a" * 32)]),
    ):
        assert (again.status, again.code) == (404, "NoSuchUpload")


async def test_a_part_sent_again_replaces_the_first(world: S3World) -> None:
    """The client's etag says which; what is not used is deleted."""
    main = world.main
    upload_id = await begin(main)
    await send(main, upload_id, 1, b"first try")
    etag = await send(main, upload_id, 1, b"second try")
    await send(main, upload_id, 2, b"never named")
    listed = await main("GET", "/bucket/key", query=f"uploadId={upload_id}")
    assert listed.texts("Part/PartNumber") == ["1", "2"]
    assert listed.texts("Part/ETag")[0] == etag
    assert (await finish(main, upload_id, [(1, etag)])).status == 200
    assert (await main("GET", "/bucket/key")).body == b"second try"
    assert len(await part_names(world)) == 1


class SlowBody:
    """A body whose end waits for a test."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.length: int | None = len(data)
        self.begun = trio.Event()
        self.go_on = trio.Event()

    async def read(self) -> bytes:
        """The data, once it may go on."""
        self.begun.set()
        await self.go_on.wait()
        data, self.data = self.data, b""
        return data


async def test_a_part_that_ends_after_the_completion_changes_nothing(world: S3World) -> None:
    """The slow first sending of a part finds its upload gone, says so, and is thrown away."""
    main = world.main
    upload_id = await begin(main)
    body = SlowBody(b"slow and late")
    answers: list[Answer] = []
    request = await signed_part(main, upload_id, body)

    async def slow() -> None:
        answers.append(await main.send(request))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow)
        await body.begun.wait()
        etag = await send(main, upload_id, 1, b"quick")
        assert (await finish(main, upload_id, [(1, etag)])).status == 200
        body.go_on.set()
    assert answers[0].code == "NoSuchUpload"
    assert (await main("GET", "/bucket/key")).body == b"quick"
    assert len(await part_names(world)) == 1


async def signed_part(client: S3Client, upload_id: str, body: SlowBody) -> Request:
    """A signed UploadPart whose body is slow."""
    caught: list[Request] = []
    app = client.app

    class Catcher:
        async def handle(self, request: Request) -> None:
            caught.append(request)
            raise InterruptedError

    client.app = Catcher()  # type: ignore[assignment]
    try:
        await client(
            "PUT",
            "/bucket/key",
            body.data,
            query=f"partNumber=1&uploadId={upload_id}",
        )
    except InterruptedError:
        pass
    finally:
        client.app = app
    caught[0].body = body
    return caught[0]


async def test_conditions_and_sizes_of_a_completion(world: S3World) -> None:
    """A completion that fails leaves the upload as it was, to be completed or aborted."""
    main = world.main
    await main("PUT", "/bucket/key", b"old")
    upload_id = await begin(main)
    etag = await send(main, upload_id, 1, LAST)
    for headers, code in (
        ({"if-none-match": "*"}, "PreconditionFailed"),
        ({"if-match": '"other"'}, "PreconditionFailed"),
        ({"x-amz-mp-object-size": "5"}, "InvalidRequest"),
    ):
        assert (await finish(main, upload_id, [(1, etag)], headers=headers)).code == code
    assert (await finish(main, upload_id, [(1, etag), (9999, etag)])).code == "InvalidPart"
    assert (await finish(main, upload_id, [])).code == "MalformedXML"
    small = await send(main, upload_id, 2, b"x")
    assert (await finish(main, upload_id, [(1, etag), (2, small)])).code == "EntityTooSmall"
    assert (await main("GET", "/bucket/key")).body == b"old"
    done = await finish(main, upload_id, [(1, etag)], headers={"x-amz-mp-object-size": str(len(LAST))})
    assert done.status == 200
    assert (await main("GET", "/bucket/key")).body == LAST


async def test_a_dead_completion_is_taken_over(world: S3World) -> None:
    """A claim whose proxy died holds others off for a while, not for ever."""
    main = world.main
    upload_id = await begin(main)
    etag = await send(main, upload_id, 1, LAST)
    multipart = world.app._operations["AbortMultipartUpload"].__self__  # type: ignore[attr-defined]
    store = multipart._uploads
    found = await store.find(main.user.account, b"bucket", b"key", upload_id.encode())
    await store.claim(found)
    assert (await finish(main, upload_id, [(1, etag)])).code == "SlowDown"
    assert (await main("DELETE", "/bucket/key", query=f"uploadId={upload_id}")).code == "SlowDown"
    impatient = S3App(world.store, world.identity, S3Settings(completion_s_max=0.0))
    main.app = impatient
    assert (await finish(main, upload_id, [(1, etag)])).status == 200
    assert (await main("GET", "/bucket/key")).body == LAST


async def test_composite_checksums(world: S3World) -> None:
    """The checksum of the parts' checksums and how many they are; parts without one are given one."""
    main = world.main
    upload_id = await begin(main, headers={"x-amz-checksum-algorithm": "SHA256"})
    etags = [(1, await send(main, upload_id, 1, FIRST)), (2, await send(main, upload_id, 2, LAST))]
    digests = [hashlib.sha256(data).digest() for data in (FIRST, LAST)]
    whole = base64.b64encode(hashlib.sha256(b"".join(digests)).digest()).decode() + "-2"
    listed = await main("GET", "/bucket/key", query=f"uploadId={upload_id}")
    assert listed.texts("Part/ChecksumSHA256") == [base64.b64encode(digest).decode() for digest in digests]
    assert (listed.text("ChecksumAlgorithm"), listed.text("ChecksumType")) == ("SHA256", "COMPOSITE")
    wrong = await finish(main, upload_id, etags, headers={"x-amz-checksum-sha256": "bad"})
    assert wrong.code == "BadDigest"
    other = await main(
        "PUT", "/bucket/key", b"x", {"x-amz-checksum-crc32": "AAAAAA=="}, query=f"partNumber=3&uploadId={upload_id}"
    )
    assert other.code == "InvalidRequest"
    done = await finish(main, upload_id, etags, headers={"x-amz-checksum-sha256": whole})
    assert (done.text("ChecksumSHA256"), done.text("ChecksumType")) == (whole, "COMPOSITE")
    mode = {"x-amz-checksum-mode": "ENABLED"}
    assert (await main("HEAD", "/bucket/key", headers=mode)).headers["x-amz-checksum-sha256"] == whole
    part = await main("GET", "/bucket/key", headers=mode, query="partNumber=2")
    assert part.headers["x-amz-checksum-sha256"] == base64.b64encode(digests[1]).decode()
    copied = await main("PUT", "/bucket/copy", headers={"x-amz-copy-source": "bucket/key"})
    assert copied.text("ChecksumSHA256") == base64.b64encode(hashlib.sha256(FIRST + LAST).digest()).decode()
    assert copied.text("ChecksumType") == "FULL_OBJECT"


async def test_full_object_checksums(world: S3World) -> None:
    """The checksum of the whole, made from those of the parts without reading them."""
    main = world.main
    headers = {"x-amz-checksum-algorithm": "CRC32", "x-amz-checksum-type": "FULL_OBJECT"}
    upload_id = await begin(main, headers=headers)
    etags = [(1, await send(main, upload_id, 1, FIRST)), (2, await send(main, upload_id, 2, LAST))]
    done = await finish(main, upload_id, etags)
    whole = base64.b64encode(zlib.crc32(FIRST + LAST).to_bytes(4, "big")).decode()
    assert (done.text("ChecksumCRC32"), done.text("ChecksumType")) == (whole, "FULL_OBJECT")
    for wrong in (
        {"x-amz-checksum-algorithm": "SHA256", "x-amz-checksum-type": "FULL_OBJECT"},
        {"x-amz-checksum-algorithm": "CRC64NVME", "x-amz-checksum-type": "COMPOSITE"},
        {"x-amz-checksum-algorithm": "CRC7"},
        {"x-amz-checksum-type": "COMPOSITE"},
    ):
        assert (await main("POST", "/bucket/key", headers=wrong, query="uploads")).code == "InvalidRequest"


async def test_parts_are_copied_from_objects(world: S3World) -> None:
    """UploadPartCopy takes a whole object or an exact range of it."""
    main = world.main
    await main("PUT", "/bucket/source", FIRST + LAST)
    upload_id = await begin(main)
    source = {"x-amz-copy-source": "bucket/source"}
    etags = []
    for number, span in ((1, f"bytes=0-{PART_BYTES_MIN - 1}"), (2, f"bytes={PART_BYTES_MIN}-{PART_BYTES_MIN + 3}")):
        headers = {**source, "x-amz-copy-source-range": span}
        copied = await main("PUT", "/bucket/key", headers=headers, query=f"partNumber={number}&uploadId={upload_id}")
        assert copied.status == 200
        etags.append((number, copied.text("ETag") or ""))
    query = f"partNumber=3&uploadId={upload_id}"
    for span, code in (
        ("bytes=0-99999999", "InvalidRange"),
        ("bytes=5-", "InvalidArgument"),
        ("0-5", "InvalidArgument"),
    ):
        headers = {**source, "x-amz-copy-source-range": span}
        assert (await main("PUT", "/bucket/key", headers=headers, query=query)).code == code
    assert (
        await main("PUT", "/bucket/key", headers={"x-amz-copy-source": "bucket/no"}, query=query)
    ).code == "NoSuchKey"
    assert (await finish(main, upload_id, etags)).status == 200
    assert (await main("GET", "/bucket/key")).body == FIRST + LAST[:4]


async def test_uploads_are_listed_in_pages(world: S3World) -> None:
    """By key and then by age, with prefixes rolled up; markers lead on to each exactly once."""
    main = world.main
    keys = ["a/1", "a/1", "a/2", "b", "c/x", "c/y", "d", "d"]
    began = [(key, await begin(main, key)) for key in keys]
    for page_size in (1, 3, 1000):
        seen: list[tuple[str, str]] = []
        query = f"uploads&max-uploads={page_size}"
        while True:
            page = await main("GET", "/bucket", query=query)
            seen += zip(page.texts("Upload/Key"), page.texts("Upload/UploadId"), strict=True)
            if page.text("IsTruncated") != "true":
                break
            key, upload_id = quote(page.text("NextKeyMarker") or "", safe=""), page.text("NextUploadIdMarker") or ""
            query = f"uploads&max-uploads={page_size}&key-marker={key}&upload-id-marker={upload_id}"
        assert seen == began
    rolled: list[str] = []
    query = "uploads&max-uploads=1&delimiter=%2F"
    while True:
        page = await main("GET", "/bucket", query=query)
        rolled += page.texts("CommonPrefixes/Prefix") + page.texts("Upload/Key")
        if page.text("IsTruncated") != "true":
            break
        key = quote(page.text("NextKeyMarker") or "", safe="")
        query = f"uploads&max-uploads=1&delimiter=%2F&key-marker={key}"
        query += f"&upload-id-marker={page.text('NextUploadIdMarker')}"
    assert rolled == ["a/", "b", "c/", "d", "d"]
    page = await main("GET", "/bucket", query="uploads&prefix=a%2F")
    assert page.texts("Upload/Key") == ["a/1", "a/1", "a/2"]
    assert page.text("Upload/Owner/ID") == page.text("Upload/Initiator/ID") == main.user.id
    assert page.text("Upload/Owner/DisplayName") == "T. main"


async def test_parts_are_listed_in_pages(world: S3World) -> None:
    """By number; the marker leads on."""
    main = world.main
    upload_id = await begin(main)
    for number in (1, 3, 5, 7):
        await send(main, upload_id, number, b"%d" % number)
    numbers: list[str] = []
    marker = "0"
    while True:
        query = f"uploadId={upload_id}&max-parts=3&part-number-marker={marker}"
        page = await main("GET", "/bucket/key", query=query)
        numbers += page.texts("Part/PartNumber")
        if page.text("IsTruncated") != "true":
            break
        marker = page.text("NextPartNumberMarker") or ""
    assert numbers == ["1", "3", "5", "7"]


async def test_parameters_of_parts_are_checked(world: S3World) -> None:
    """Part numbers from 1 to 10,000, of uploads that exist, with both parameters."""
    main = world.main
    upload_id = await begin(main)
    for query, code in (
        (f"partNumber=0&uploadId={upload_id}", "InvalidArgument"),
        (f"partNumber=10001&uploadId={upload_id}", "InvalidArgument"),
        (f"partNumber=x&uploadId={upload_id}", "InvalidArgument"),
        (f"uploadId={upload_id}", "InvalidArgument"),
        ("partNumber=1", "InvalidArgument"),
        ("partNumber=1&uploadId=unknown", "NoSuchUpload"),
        ("partNumber=1&uploadId=%00%FF", "NoSuchUpload"),
    ):
        assert (await main("PUT", "/bucket/key", b"x", query=query)).code == code, query
