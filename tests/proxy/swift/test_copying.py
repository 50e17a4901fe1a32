"""COPY and X-Copy-From."""

from __future__ import annotations

import hashlib

import orjson

from tests.proxy.swift.conftest import Cloud


async def test_a_copy_is_the_same(cloud: Cloud) -> None:
    """Bytes, type and metadata go along, by either way of asking."""
    await cloud.ask("PUT", "d")
    data = b"x" * 300_000
    source = await cloud.put("c/o", data, content_type="x/y", x_object_meta_a="1", content_encoding="gzip")
    by_copy = await cloud.ask("COPY", "c/o", destination="d/one")
    by_put = await cloud.ask("PUT", "d/two", b"", x_copy_from="/c/o")
    for copied in (by_copy, by_put):
        assert (copied.status, copied.headers["etag"]) == (201, source.headers["etag"])
        assert copied.headers["x-copied-from"] == "c/o"
        assert copied.headers["x-copied-from-account"] == "AUTH_science"
        assert "x-copied-from-last-modified" in copied.headers
    for name in ("d/one", "d/two"):
        got = await cloud.ask("GET", name)
        assert (got.body == data, got.headers["content-type"]) == (True, "x/y")
        assert (got.headers["x-object-meta-a"], got.headers["content-encoding"]) == ("1", "gzip")


async def test_metadata_of_a_copy(cloud: Cloud) -> None:
    """What the request says is added, or with X-Fresh-Metadata is all."""
    await cloud.put("c/o", content_type="x/y", x_object_meta_a="1", x_object_meta_b="2")
    await cloud.ask("COPY", "c/o", destination="c/one", x_object_meta_b="3", content_type="z/z")
    head = (await cloud.ask("HEAD", "c/one")).headers
    assert (head["x-object-meta-a"], head["x-object-meta-b"], head["content-type"]) == ("1", "3", "z/z")
    await cloud.ask("COPY", "c/o", destination="c/two", x_fresh_metadata="true", x_object_meta_c="4")
    head = (await cloud.ask("HEAD", "c/two")).headers
    assert (head["x-object-meta-c"], head["content-type"]) == ("4", "x/y")
    assert "x-object-meta-a" not in head
    onto_itself = await cloud.ask("COPY", "c/o", destination="c/o", x_object_meta_a="new")
    assert onto_itself.status == 201
    got = await cloud.ask("GET", "c/o")
    assert (got.body, got.headers["x-object-meta-a"]) == (b"data", "new")


async def test_copies_that_are_refused(cloud: Cloud) -> None:
    """Each with its own status."""
    await cloud.put("c/o")
    assert (await cloud.ask("COPY", "c/o")).status == 412
    assert (await cloud.ask("COPY", "c/o", destination="c")).status == 412
    assert (await cloud.ask("COPY", "c/o", destination="none/o")).status == 404
    assert (await cloud.ask("COPY", "c/none", destination="c/x")).status == 404
    assert (await cloud.ask("COPY", "none/o", destination="c/x")).status == 404
    assert (await cloud.ask("COPY", "c/o", destination="c/" + "x" * 1025)).status == 400
    assert (await cloud.ask("PUT", "c/x", b"body", x_copy_from="c/o")).status == 400
    assert (await cloud.ask("PUT", "c/x", b"", x_copy_from="c")).status == 412
    assert (await cloud.ask("COPY", "c/o", destination="c/x", destination_account="a/b")).status == 412
    assert await cloud.names("c") == ["o"]


async def test_conditional_copies(cloud: Cloud) -> None:
    """Conditions are about the source, If-None-Match: * of a PUT about the target."""
    etag = (await cloud.put("c/o")).headers["etag"]
    assert (await cloud.ask("COPY", "c/o", destination="c/x", if_match="other")).status == 412
    assert (await cloud.ask("COPY", "c/o", destination="c/x", if_none_match=etag)).status == 412
    assert (await cloud.ask("COPY", "c/o", destination="c/x", if_match=etag)).status == 201
    assert (await cloud.ask("PUT", "c/x", b"", x_copy_from="c/o", if_none_match="*")).status == 412
    assert (await cloud.ask("PUT", "c/y", b"", x_copy_from="c/o", if_none_match="*")).status == 201


async def test_a_copy_of_a_piece(cloud: Cloud) -> None:
    """A Range copies that range."""
    await cloud.put("c/o", b"0123456789")
    assert (await cloud.ask("PUT", "c/x", b"", x_copy_from="c/o", range="bytes=2-4")).status == 201
    assert (await cloud.ask("GET", "c/x")).body == b"234"
    assert (await cloud.ask("COPY", "c/o", destination="c/x", range="bytes=20-")).status == 416
    assert (await cloud.ask("COPY", "c/o", destination="c/x", range="bytes=0-1,4-5")).status == 400


async def test_copies_between_accounts(cloud: Cloud) -> None:
    """One reads where one may read and writes where one may write."""
    await cloud.put("c/o")
    await cloud.ask("PUT", "/v1/AUTH_art/b", by="bob")
    refused = await cloud.ask(
        "PUT", "/v1/AUTH_art/b/x", b"", by="bob", x_copy_from="c/o", x_copy_from_account="AUTH_science"
    )
    assert refused.status == 403
    assert (await cloud.ask("COPY", "c/o", destination="b/x", destination_account="AUTH_art")).status == 403
    await cloud.ask("POST", "c", x_container_read="art:bob")
    await cloud.ask("POST", "/v1/AUTH_art/b", by="bob", x_container_write="science:*")
    granted = await cloud.ask(
        "PUT", "/v1/AUTH_art/b/x", b"", by="bob", x_copy_from="c/o", x_copy_from_account="AUTH_science"
    )
    assert granted.status == 201
    assert (await cloud.ask("COPY", "c/o", destination="b/y", destination_account="AUTH_art")).status == 201
    assert await cloud.names("/v1/AUTH_science/c") == ["o"]
    assert (await cloud.ask("GET", "/v1/AUTH_art/b", by="bob")).lines == ["x", "y"]


async def test_copies_of_large_objects(cloud: Cloud) -> None:
    """A large object is copied as one, or as a manifest."""
    for number in range(3):
        await cloud.put(f"c/seg{number}", b"%d" % number * 1000)
    manifest = orjson.dumps([{"path": f"/c/seg{number}"} for number in range(3)])
    await cloud.ask("PUT", "c/slo?multipart-manifest=put", manifest)
    await cloud.put("c/dlo", b"", x_object_manifest="c/seg", x_object_meta_a="1")
    whole = b"0" * 1000 + b"1" * 1000 + b"2" * 1000
    for name in ("slo", "dlo"):
        assert (await cloud.ask("COPY", f"c/{name}", destination="c/flat")).status == 201
        flat = await cloud.ask("GET", "c/flat")
        assert (flat.body, flat.headers["etag"]) == (whole, hashlib.md5(whole).hexdigest())
        assert not {"x-static-large-object", "x-object-manifest"} & set(flat.headers)
        assert (await cloud.ask("COPY", f"c/{name}?multipart-manifest=get", destination=f"c/{name}2")).status == 201
        copied = await cloud.ask("GET", f"c/{name}2")
        assert copied.body == whole
        assert {"x-static-large-object", "x-object-manifest"} & set(copied.headers)
