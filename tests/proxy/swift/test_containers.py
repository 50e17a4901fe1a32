"""Accounts, containers and listings."""

from __future__ import annotations

from xml.etree import ElementTree

from tests.proxy.swift.conftest import Cloud


async def test_an_account_makes_itself(cloud: Cloud) -> None:
    """The first request of a user for the own account finds it, empty; nobody else's is made that way."""
    assert (await cloud.ask("HEAD", "/v1/AUTH_art", by="bob")).headers["x-account-container-count"] == "0"
    listing = await cloud.ask("GET", "/v1/AUTH_art", by="bob")
    assert (listing.status, listing.body) == (204, b"")
    assert (await cloud.ask("GET", "/v1/AUTH_art?format=json", by="bob")).json() == []
    assert (await cloud.ask("GET", "/v1/AUTH_nobody", by="root")).status == 404


async def test_containers_come_and_go(cloud: Cloud) -> None:
    """201, then 202; 204 when empty, 409 while not, 404 when gone."""
    assert (await cloud.ask("PUT", "d")).status == 201
    assert (await cloud.ask("PUT", "d")).status == 202
    await cloud.put("d/o")
    assert (await cloud.ask("DELETE", "d")).status == 409
    await cloud.ask("DELETE", "d/o")
    assert (await cloud.ask("DELETE", "d")).status == 204
    for method in ("DELETE", "GET", "HEAD", "POST"):
        assert (await cloud.ask(method, "d")).status == 404
    assert await cloud.names("/v1/AUTH_science") == ["c"]


async def test_names_of_containers(cloud: Cloud) -> None:
    """256 bytes are a name, 257 are not; policies there is one of."""
    assert (await cloud.ask("PUT", "%C3%BC" * 128)).status == 201
    assert (await cloud.ask("PUT", "c" * 257)).status == 400
    assert (await cloud.ask("PUT", "%FF")).status == 412
    assert (await cloud.ask("PUT", "%00users")).status == 412
    assert (await cloud.ask("PUT", "p", x_storage_policy="gold")).status == 400
    assert (await cloud.ask("PUT", "p", x_storage_policy="default")).status == 201


async def test_totals(cloud: Cloud) -> None:
    """Counts and bytes of a container follow each write at once."""
    await cloud.put("c/a", b"x" * 10)
    await cloud.put("c/b", b"x" * 5)
    await cloud.put("c/a", b"x" * 7)
    head = await cloud.ask("HEAD", "c")
    assert head.status == 204
    assert (head.headers["x-container-object-count"], head.headers["x-container-bytes-used"]) == ("2", "12")
    await cloud.ask("DELETE", "c/a")
    assert (await cloud.ask("HEAD", "c")).headers["x-container-object-count"] == "1"


async def test_listings(cloud: Cloud) -> None:
    """Prefix, delimiter, markers, limit and reverse, in the order of the names' bytes."""
    for name in ("a", "b/1", "b/2", "b/c/3", "z", "B", "%C3%BC"):
        await cloud.put(f"c/{name}", b"x")
    everything = ["B", "a", "b/1", "b/2", "b/c/3", "z", "ü"]
    assert await cloud.names("c") == everything
    assert await cloud.names("c?reverse=true") == everything[::-1]
    assert await cloud.names("c?limit=2") == ["B", "a"]
    assert await cloud.names("c?limit=0") == []
    assert await cloud.names("c?marker=a&limit=2") == ["b/1", "b/2"]
    assert await cloud.names("c?marker=b/2&end_marker=z") == ["b/c/3"]
    assert await cloud.names("c?prefix=b/") == ["b/1", "b/2", "b/c/3"]
    assert await cloud.names("c?delimiter=/") == ["B", "a", "b/", "z", "ü"]
    assert await cloud.names("c?delimiter=/&marker=b/") == ["z", "ü"]
    assert await cloud.names("c?delimiter=/&prefix=b/") == ["b/1", "b/2", "b/c/"]
    assert await cloud.names("c?delimiter=/&reverse=1&marker=z") == ["b/", "a", "B"]
    assert await cloud.names("c?prefix=nothing") == []
    assert (await cloud.ask("GET", "c?limit=10001")).status == 412
    assert (await cloud.ask("GET", "c?prefix=%FF")).status == 400


async def test_pages_make_the_whole(cloud: Cloud) -> None:
    """With any page size, following the last name gives each name once."""
    names = [f"{i % 3}/{i:02d}" for i in range(20)]
    for name in names:
        await cloud.put(f"c/{name}", b"")
    for extra in ("", "&delimiter=/", "&reverse=true"):
        for limit in (1, 3, 7):
            seen: list[str] = []
            marker = ""
            while page := await cloud.names(f"c?limit={limit}&marker={marker}{extra}"):
                assert len(page) <= limit
                seen += page
                marker = page[-1]
            whole = sorted({name[:2] for name in names}) if "delimiter" in extra else sorted(names)
            assert seen == (whole[::-1] if "reverse" in extra else whole)


async def test_pseudo_directories(cloud: Cloud) -> None:
    """path= lists the objects directly in a directory, and those that stand for its subdirectories."""
    for name in ("x", "d/", "d/1", "d/2", "d/sub/", "d/sub/3", "d/unmarked/4"):
        await cloud.put(f"c/{name}", b"")
    assert await cloud.names("c?path=d") == ["d/1", "d/2", "d/sub/"]
    assert await cloud.names("c?path=d/") == ["d/1", "d/2", "d/sub/"]
    assert await cloud.names("c?path=") == ["d/", "x"]
    assert await cloud.names("c?path=d&limit=1&marker=d/1") == ["d/2"]
    assert await cloud.names("c?path=none") == []


async def test_forms_of_listings(cloud: Cloud) -> None:
    """Text, JSON and XML, by format or by Accept; 204 only for empty text."""
    await cloud.put("c/a&b", b"x", content_type="x/y")
    row = (await cloud.ask("GET", "c", accept="application/json")).json()[0]
    assert (row["name"], row["bytes"], row["content_type"], len(row["hash"])) == ("a&b", 1, "x/y", 32)
    xml = await cloud.ask("GET", "c?format=xml")
    assert xml.headers["content-type"] == "application/xml; charset=utf-8"
    assert ElementTree.fromstring(xml.body).findtext("object/name") == "a&b"
    assert (await cloud.ask("GET", "c", accept="image/png")).status == 406
    await cloud.ask("DELETE", "c/a&b")
    assert (await cloud.ask("GET", "c")).status == 204
    assert ((await cloud.ask("GET", "c?format=json")).status, (await cloud.ask("GET", "c?format=xml")).status) == (
        200,
        200,
    )
    account = (await cloud.ask("GET", "/v1/AUTH_science?format=json")).json()
    assert [(row["name"], row["count"]) for row in account] == [("c", 0)]
    root = ElementTree.fromstring((await cloud.ask("GET", "/v1/AUTH_science?format=xml")).body)
    assert (root.get("name"), root.findtext("container/name")) == ("AUTH_science", "c")


async def test_metadata_of_containers_and_accounts(cloud: Cloud) -> None:
    """Items merge one by one, go by an empty value or X-Remove-, and are limited in sum."""
    for path, kind in (("c", "container"), ("/v1/AUTH_science", "account")):

        def meta(name: str, kind: str = kind, remove: bool = False) -> str:
            return f"x_{'remove_' if remove else ''}{kind}_meta_{name}"

        assert (await cloud.ask("POST", path, **{meta("a"): "1", meta("b"): "röt"})).status == 204
        assert (await cloud.ask("POST", path, **{meta("c"): "3"})).status == 204
        head = (await cloud.ask("HEAD", path)).headers
        assert [head[meta(name).replace("_", "-")] for name in "abc"] == ["1", "röt", "3"]
        assert (await cloud.ask("POST", path, **{meta("a"): "", meta("b", remove=True): "x"})).status == 204
        head = (await cloud.ask("HEAD", path)).headers
        assert meta("a").replace("_", "-") not in head
        assert meta("b").replace("_", "-") not in head
        assert (await cloud.ask("POST", path, **{meta(f"n{i}"): "v" for i in range(89)})).status == 204
        assert (await cloud.ask("POST", path, **{meta("more"): "v"})).status == 400
        assert (await cloud.ask("POST", path, **{meta("c"): "other"})).status == 204
    assert (await cloud.ask("PUT", "c", x_container_meta_more="v")).status == 400
    assert (await cloud.ask("PUT", "c", x_container_meta_c="put")).status == 202
    assert (await cloud.ask("HEAD", "c")).headers["x-container-meta-c"] == "put"


async def test_a_name_used_again_begins_anew(cloud: Cloud) -> None:
    """A container made again has none of the metadata of the one before."""
    await cloud.ask("PUT", "d", x_container_meta_a="1", x_container_read=".r:*")
    await cloud.ask("DELETE", "d")
    assert (await cloud.ask("PUT", "d")).status == 201
    head = (await cloud.ask("HEAD", "d")).headers
    assert not {"x-container-meta-a", "x-container-read"} & set(head)


async def test_accounts_are_managed_by_administrators(cloud: Cloud) -> None:
    """PUT and DELETE of accounts are not for their users."""
    assert (await cloud.ask("PUT", "/v1/AUTH_new", by="root")).status == 201
    assert (await cloud.ask("PUT", "/v1/AUTH_new", by="root")).status == 202
    assert (await cloud.ask("DELETE", "/v1/AUTH_new", by="root")).status == 204
    assert (await cloud.ask("HEAD", "/v1/AUTH_new", by="root")).status == 404
    assert (await cloud.ask("DELETE", "/v1/AUTH_new", by="root")).status == 404
    for method in ("PUT", "DELETE"):
        assert (await cloud.ask(method, "/v1/AUTH_science")).status == 403
    assert (await cloud.ask("GET", "/v1/.ringstead", by="root")).status == 403


async def test_a_deleted_account_is_gone_for_everybody(cloud: Cloud) -> None:
    """What it held can't be read, listed, written or changed by anybody, nor the account made again; others go on."""
    await cloud.put("c/o", b"x")
    await cloud.ask("POST", "c", x_container_read=".r:*,.rlistings")
    assert (await cloud.ask("GET", "c/o", by=None)).status == 200
    assert (await cloud.ask("DELETE", "/v1/AUTH_science", by="root")).status == 204
    for by in ("ada", "root"):
        for method, path in (("GET", "c/o"), ("HEAD", "c"), ("GET", ""), ("PUT", "c/p"), ("PUT", "d"), ("POST", "")):
            answer = await cloud.ask(method, path, b"x" if path == "c/p" else None, by=by)
            assert answer.status == 404, (by, method, path)
    assert (await cloud.ask("GET", "c/o", by=None)).status == 404
    answer = await cloud.ask("PUT", "/v1/AUTH_science", by="root")
    assert (answer.status, answer.headers["x-account-status"]) == (403, "Deleted")
    assert (await cloud.ask("PUT", "/v1/AUTH_art/c", by="bob")).status == 201
