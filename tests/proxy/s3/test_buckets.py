"""Operations on buckets, on a real store."""

from __future__ import annotations

import pytest
import trio

from proxy.s3.ownership import CLAIMS, RESERVED_ACCOUNT, STALE_CLAIM_US, BucketRegistry
from proxy.s3.upload_names import parts_container, uploads_container
from storage_node.timestamp import wall_clock_us
from tests.proxy.s3.client import Answer, S3Client, S3World


async def test_a_bucket_lives_from_creation_to_deletion(world: S3World) -> None:
    """Create, head, list, delete; then it is gone."""
    main = world.main
    created = await main("PUT", "/photos")
    assert (created.status, created.headers["location"]) == (200, "/photos")
    assert (await main("HEAD", "/photos")).headers["x-amz-bucket-region"] == "us-east-1"
    listed = await main("GET", "/")
    assert listed.texts("Buckets/Bucket/Name") == ["bucket", "photos"]
    assert listed.text("Owner/ID") == main.user.id
    assert listed.text("Owner/DisplayName") == "T. main"
    assert (await main("DELETE", "/photos")).status == 204
    assert (await main("HEAD", "/photos")).status == 404
    assert (await main("DELETE", "/photos")).code == "NoSuchBucket"
    assert (await main("GET", "/")).texts("Buckets/Bucket/Name") == ["bucket"]


async def test_every_answer_can_be_traced(world: S3World) -> None:
    """Request id, host id and server are on successes, on errors, and in the error's document."""
    for path in ("/bucket", "/nobody"):
        answer = await world.main("GET", path)
        assert answer.headers["x-amz-request-id"].startswith("tx")
        assert answer.headers["x-amz-id-2"]
        assert answer.headers["server"]
    assert answer.xml.findtext("RequestId") == answer.headers["x-amz-request-id"]
    assert answer.xml.findtext("BucketName") == "nobody"
    assert answer.xml.findtext("Resource") == "/nobody"


async def test_bucket_names_are_one_name_space(world: S3World) -> None:
    """A name that another has is taken; one's own is a success that changes nothing; a released one is free."""
    main, other = world.main, world.other
    await main("PUT", "/bucket/key", b"data")
    assert (await main("PUT", "/bucket")).status == 200
    assert (await main("GET", "/bucket/key")).body == b"data"
    taken = await other("PUT", "/bucket")
    assert (taken.status, taken.code) == (409, "BucketAlreadyExists")
    await main("DELETE", "/bucket/key")
    await main("DELETE", "/bucket")
    assert (await other("PUT", "/bucket")).status == 200
    assert (await main("PUT", "/bucket")).code == "BucketAlreadyExists"


CLOSED = [
    ("GET", "/bucket", ""),
    ("HEAD", "/bucket", ""),
    ("GET", "/bucket/key", ""),
    ("PUT", "/bucket/key", ""),
    ("DELETE", "/bucket/key", ""),
    ("DELETE", "/bucket", ""),
    ("GET", "/bucket", "uploads"),
    ("POST", "/bucket/key", "uploads"),
    ("GET", "/bucket", "location"),
    ("GET", "/bucket", "policy"),
    ("GET", "/bucket/key", "tagging"),
]


async def test_anothers_bucket_is_closed(world: S3World) -> None:
    """403 for whoever is not its owner, and for whoever did not sign."""
    await world.main("PUT", "/bucket/key", b"data")
    for method, path, query in CLOSED:
        for denied in (
            await world.other(method, path, query=query),
            await world.main(method, path, query=query, sign=False),
        ):
            assert denied.status == 403
            assert method == "HEAD" or denied.code == "AccessDenied"
    assert (await world.main("GET", "/bucket/key")).body == b"data"


async def test_administrators_reach_every_bucket(world: S3World) -> None:
    """An administrator's requests go to the bucket's account; new buckets are their own."""
    made = await world.identity.add_user("ops", "root", admin=True)
    admin = type(world.main)(world.app, made.user, made.secret_key)
    assert (await admin("PUT", "/bucket/key", b"data")).status == 200
    assert (await world.main("GET", "/bucket/key")).body == b"data"
    assert (await admin("GET", "/bucket")).texts("Contents/Key") == ["key"]
    copied = await admin("PUT", "/bucket/copy", headers={"x-amz-copy-source": "bucket/key"})
    assert copied.status == 200
    assert (await admin("PUT", "/bucket")).code == "BucketAlreadyExists"
    assert (await admin("GET", "/nobody")).code == "NoSuchBucket"


async def test_an_account_with_a_container_of_that_name_has_its_bucket(world: S3World) -> None:
    """What Swift made in one's own account is found first, whoever has claimed the name among buckets."""
    other = world.other
    await world.store.create_container(other.user.account, b"bucket", {})
    assert (await other("PUT", "/bucket/mine", b"data")).status == 200
    assert (await other("GET", "/bucket")).texts("Contents/Key") == ["mine"]
    assert (await other("PUT", "/bucket")).status == 200
    assert (await world.main("GET", "/bucket")).texts("Contents/Key") == []


async def test_any_container_can_be_read_under_its_name(world: S3World) -> None:
    """Names that S3 would not let one create are found where Swift created them."""
    for name in ("Upper_Case", "ab", "größe"):
        await world.store.create_container(world.main.user.account, name.encode(), {})
        assert (await world.main("PUT", f"/{name}/key", b"x")).status == 200
        assert (await world.main("GET", f"/{name}")).text("Name") == name
        assert (await world.main("PUT", f"/{name}")).code == "InvalidBucketName"


async def test_only_empty_buckets_are_deleted(world: S3World) -> None:
    """BucketNotEmpty while there is an object."""
    await world.main("PUT", "/bucket/key", b"data")
    refused = await world.main("DELETE", "/bucket")
    assert (refused.status, refused.code) == (409, "BucketNotEmpty")


async def test_uploads_in_progress_go_with_their_bucket(world: S3World) -> None:
    """They do not keep it, and a bucket of the same name does not inherit them."""
    main = world.main
    created = await main("POST", "/bucket/key", query="uploads")
    upload_id = created.text("UploadId")
    assert (await main("PUT", "/bucket/key", b"part", query=f"partNumber=1&uploadId={upload_id}")).status == 200
    assert (await main("DELETE", "/bucket")).status == 204
    for container in (uploads_container(b"bucket"), parts_container(b"bucket")):
        with pytest.raises(Exception, match="container"):
            await world.store.head_container(main.user.account, container)
    assert (await main("PUT", "/bucket")).status == 200
    assert (await main("GET", "/bucket", query="uploads")).texts("Upload/UploadId") == []
    assert (
        await main("PUT", "/bucket/key", b"part", query=f"partNumber=1&uploadId={upload_id}")
    ).code == "NoSuchUpload"


async def test_locations_are_remembered(world: S3World) -> None:
    """us-east-1 is empty, as at AWS; any other is what the client said."""
    main = world.main
    assert (await main("GET", "/bucket", query="location")).xml.text is None
    body = b"<CreateBucketConfiguration><LocationConstraint>eu-west-1</LocationConstraint></CreateBucketConfiguration>"
    assert (await main("PUT", "/europe", body)).status == 200
    assert (await main("GET", "/europe", query="location")).xml.text == "eu-west-1"
    assert (await main("HEAD", "/europe")).headers["x-amz-bucket-region"] == "eu-west-1"
    assert (await main("PUT", "/bad", body.replace(b"eu-west-1", b"&lt;"))).code == "InvalidLocationConstraint"
    assert (await main("PUT", "/bad", b"<Nonsense/>")).code == "MalformedXML"


async def test_buckets_are_listed_in_pages(world: S3World) -> None:
    """max-buckets, continuation-token, prefix."""
    main = world.main
    for name in ("aaa", "bbb", "ccc"):
        await main("PUT", f"/{name}")
    names: list[str] = []
    query = "max-buckets=2"
    while True:
        page = await main("GET", "/", query=query)
        names += page.texts("Buckets/Bucket/Name")
        token = page.text("ContinuationToken")
        if token is None:
            break
        query = f"max-buckets=2&continuation-token={token}"
    assert names == ["aaa", "bbb", "bucket", "ccc"]
    assert (await main("GET", "/", query="prefix=b")).texts("Buckets/Bucket/Name") == ["bbb", "bucket"]
    assert (await main("GET", "/", query="max-buckets=-1")).code == "InvalidArgument"


async def test_a_user_without_an_account_has_no_buckets(world: S3World) -> None:
    """The first request of a new user is an empty list."""
    answer = await world.other("GET", "/")
    assert (answer.status, answer.texts("Buckets/Bucket/Name")) == (200, [])


async def test_buckets_are_addressed_by_host(world: S3World) -> None:
    """bucket.localhost is the bucket; the signature covers the path as it was sent."""
    main = world.main
    for key in ("/key", "/a//b/", "/ä ö+%"):
        put = await main("PUT", key, b"data", headers={"host": "bucket.localhost:8080"})
        assert put.status == 200
        assert (await main("GET", "/bucket" + key)).body == b"data"
    assert (await main("PUT", "/", headers={"host": "fresh.localhost"})).status == 200
    assert (await main("GET", "/fresh")).status == 200


class Moments:
    """A clock that a test sets."""

    def __init__(self, now_us: int) -> None:
        self.now_us = now_us

    def __call__(self) -> int:
        return self.now_us


async def test_a_claim_without_a_bucket_does_not_last(world: S3World) -> None:
    """A name that a dead proxy claimed is its owner's at once and anybody's after an hour; one in use is never taken."""
    clock = Moments(wall_clock_us())
    registry = BucketRegistry(world.store, clock)
    main, other = world.main.user.account, world.other.user.account
    assert await registry.claim(b"lost", main) == main
    assert await registry.claim(b"lost", main) == main
    assert await registry.claim(b"lost", other) == main
    clock.now_us += STALE_CLAIM_US + 1_000_000
    assert await registry.claim(b"bucket", other) == main
    assert await registry.claim(b"lost", other) == other
    assert await registry.owner(b"lost") == other
    await registry.release(b"lost", main)
    assert await registry.owner(b"lost") == other
    await registry.release(b"lost", other)
    assert await registry.owner(b"lost") is None


async def test_racing_creators_of_a_name(world: S3World) -> None:
    """Of two users who create the same bucket at once exactly one has it afterwards."""
    for round_index in range(5):
        path = f"/contested-{round_index}"
        answers: dict[str, Answer] = {}

        async def create(name: str, client: S3Client, path: str = path, answers: dict[str, Answer] = answers) -> None:
            answers[name] = await client("PUT", path)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(create, "main", world.main)
            nursery.start_soon(create, "other", world.other)
        winners = [name for name, answer in answers.items() if answer.status == 200]
        assert len(winners) == 1
        loser = world.other if winners == ["main"] else world.main
        assert (await loser("HEAD", path)).status == 403


async def test_names_with_which_nobody_may_play(world: S3World) -> None:
    """The containers that hold claims, users and parts cannot be addressed."""
    assert await world.store.head_container(RESERVED_ACCOUNT, CLAIMS)
    for path in ("/\x00buckets", "/\x00parts\x00bucket/key"):
        answer = await world.main("GET", path)
        assert (answer.status, answer.code) == (400, "InvalidBucketName")
