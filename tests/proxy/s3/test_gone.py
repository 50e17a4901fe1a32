"""What is gone for S3 clients too: objects whose time (set through Swift) is over, and what a deleted account held."""

from __future__ import annotations

from proxy.expiry_queue import DELETE_AT
from storage_node.timestamp import wall_clock_us
from tests.proxy.s3.client import S3World


async def test_what_has_expired_is_no_key(world: S3World) -> None:
    """Before its time it is read as any object; after it GET, HEAD and a copy find nothing, and PUT makes it anew."""
    main, store = world.main, world.store
    assert (await main("PUT", "/bucket/key", b"data")).status == 200
    now_s = wall_clock_us() // 1_000_000
    await store.update_object(main.user.account, b"bucket", b"key", {DELETE_AT: str(now_s + 3600)}, None)
    assert (await main("GET", "/bucket/key")).body == b"data"
    await store.update_object(main.user.account, b"bucket", b"key", {DELETE_AT: str(now_s - 1)}, None)
    assert (await main("GET", "/bucket/key")).code == "NoSuchKey"
    assert (await main("HEAD", "/bucket/key")).status == 404
    copied = await main("PUT", "/bucket/copy", headers={"x-amz-copy-source": "/bucket/key"})
    assert copied.code == "NoSuchKey"
    assert (await main("PUT", "/bucket/key", b"again")).status == 200
    assert (await main("GET", "/bucket/key")).body == b"again"


async def test_a_deleted_account_has_no_buckets(world: S3World) -> None:
    """Its user finds no bucket and can make none; others, and their buckets, are as they were."""
    main, other = world.main, world.other
    assert (await main("PUT", "/bucket/key", b"data")).status == 200
    assert (await other("PUT", "/others")).status == 200
    await world.store.delete_account(main.user.account)
    assert (await main("GET", "/bucket/key")).code == "NoSuchBucket"
    assert (await main("PUT", "/bucket/key", b"x")).code == "NoSuchBucket"
    assert (await main("GET", "/bucket")).code == "NoSuchBucket"
    for answer in (await main("PUT", "/second"), await main("GET", "/")):
        assert (answer.status, answer.code) == (403, "AccessDenied")
    assert (await other("GET", "/bucket/key")).code in ("AccessDenied", "NoSuchBucket")
    assert (await other("PUT", "/others/key", b"x")).status == 200
