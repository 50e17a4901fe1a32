"""Who may do what: accounts, ACLs, signed URLs, web pages."""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from typing import Any
from urllib.parse import quote, urlencode

import orjson
import pytest

from tests.proxy.swift.conftest import Cloud

KEY = "secret"


async def test_accounts_are_private(cloud: Cloud) -> None:
    """Without a token 401 and a challenge, with another's 403, with a bad one 401; administrators go everywhere."""
    await cloud.put("c/o")
    for method, path in (
        ("GET", "c/o"),
        ("HEAD", "c"),
        ("GET", "/v1/AUTH_science"),
        ("PUT", "new"),
        ("DELETE", "c/o"),
        ("GET", "c/missing"),
        ("GET", "missing/o"),
        ("POST", "/v1/AUTH_science"),
        ("COPY", "c/o"),
    ):
        anonymous = await cloud.ask(method, path, by=None)
        assert (anonymous.status, anonymous.headers["www-authenticate"]) == (401, 'Swift realm="AUTH_science"')
        assert (await cloud.ask(method, path, by="bob")).status == 403
        assert (await cloud.ask(method, path, by=None, x_auth_token="AUTH_tkrubbish")).status == 401
    assert (await cloud.ask("GET", "c/o", by="root")).status == 200
    assert (await cloud.ask("GET", "c/o", by=None, x_storage_token=cloud.tokens["ada"])).status == 200


async def test_reading_by_acl(cloud: Cloud) -> None:
    """X-Container-Read opens objects and, to users or with .rlistings, the listing; nothing else."""
    await cloud.put("c/o")
    await cloud.ask("POST", "c", x_container_read=".r:*")
    for by in (None, "bob"):
        assert (await cloud.ask("GET", "c/o", by=by)).body == b"data"
        assert (await cloud.ask("HEAD", "c/o", by=by)).status == 200
        assert (await cloud.ask("GET", "c", by=by)).status == (401 if by is None else 403)
        assert (await cloud.ask("PUT", "c/x", b"", by=by)).status == (401 if by is None else 403)
    await cloud.ask("POST", "c", x_container_read=".r:*,.rlistings")
    listing = await cloud.ask("GET", "c", by=None)
    assert listing.lines == ["o"]
    assert "x-container-read" not in listing.headers
    assert (await cloud.ask("HEAD", "c")).headers["x-container-read"] == ".r:*,.rlistings"
    await cloud.ask("POST", "c", x_container_read="art:bob")
    assert (await cloud.ask("GET", "c", by="bob")).lines == ["o"]
    assert (await cloud.ask("GET", "c/o", by=None)).status == 401
    await cloud.ask("POST", "c", x_remove_container_read="x")
    assert (await cloud.ask("GET", "c/o", by="bob")).status == 403


async def test_writing_by_acl(cloud: Cloud) -> None:
    """X-Container-Write opens writing of objects, not the container itself, and not reading."""
    await cloud.ask("POST", "c", x_container_write="art:bob")
    assert (await cloud.ask("PUT", "c/o", b"bob's", by="bob")).status == 201
    assert (await cloud.ask("POST", "c/o", by="bob", x_object_meta_a="1")).status == 202
    assert (await cloud.ask("GET", "c/o", by="bob")).status == 403
    assert (await cloud.ask("POST", "c", by="bob", x_container_read=".r:*")).status == 403
    assert (await cloud.ask("DELETE", "c", by="bob")).status == 403
    assert (await cloud.ask("DELETE", "c/o", by="bob")).status == 204
    assert (await cloud.ask("PUT", "c/o", b"", by=None)).status == 401
    assert (await cloud.ask("POST", "c", x_container_write=".r:*")).status == 400


async def test_manifests_are_no_way_around(cloud: Cloud) -> None:
    """Who may write one container reads no other through a manifest, however it is made."""
    await cloud.ask("PUT", "private")
    await cloud.put("private/secret", b"secret")
    await cloud.ask("POST", "c", x_container_write="art:bob", x_container_read="art:bob")
    manifest = orjson.dumps([{"path": "/private/secret"}])
    assert (await cloud.ask("PUT", "c/slo?multipart-manifest=put", manifest, by="bob")).status == 403
    assert (await cloud.ask("PUT", "c/dlo", b"", by="bob", x_object_manifest="private/s")).status == 201
    assert (await cloud.ask("GET", "c/dlo", by="bob")).status == 403
    assert (await cloud.ask("COPY", "c/dlo", by="bob", destination="c/x")).status == 403
    assert (await cloud.ask("PUT", "c/x", b"", by="bob", x_copy_from="private/secret")).status == 403
    await cloud.ask("PUT", "c/slo?multipart-manifest=put", manifest)
    assert (await cloud.ask("GET", "c/slo")).body == b"secret"
    assert (await cloud.ask("GET", "c/slo", by="bob")).status == 403
    deleted = await cloud.ask("DELETE", "c/slo?multipart-manifest=delete", by="bob", accept="application/json")
    assert deleted.json()["Errors"] == [["/private/secret", "403 Forbidden"]]
    assert (await cloud.ask("GET", "private/secret")).status == 200


def signed(cloud: Cloud, method: str, path: str, digest: str = "sha256", **extra: Any) -> str:
    """A signed URL's path and query."""
    expires_s = extra.pop("expires_s", int(cloud.time.now_s) + 60)
    text = f"{method}\n{expires_s}\n" + (f"prefix:{extra.pop('prefix_path')}" if "prefix_path" in extra else path)
    if "temp_url_ip_range" in extra:
        text = f"ip={extra['temp_url_ip_range']}\n{text}"
    value = hmac.digest(extra.pop("key", KEY).encode(), text.encode(), digest)
    signature = f"sha512:{urlsafe_b64encode(value).decode()}" if extra.pop("base64", False) else value.hex()
    return f"{quote(path)}?{urlencode({'temp_url_sig': signature, 'temp_url_expires': expires_s, **extra})}"


async def test_signed_urls(cloud: Cloud) -> None:
    """Any digest, either key, the account's or the container's; GET is good for HEAD."""
    path = "/v1/AUTH_science/c/dir/ö o.txt"
    await cloud.put(quote("c/dir/ö o.txt"))
    await cloud.ask("POST", "/v1/AUTH_science", x_account_meta_temp_url_key=KEY, x_account_meta_temp_url_key_2="second")
    await cloud.ask("POST", "c", x_container_meta_temp_url_key="third")
    for digest in ("sha1", "sha256", "sha512"):
        assert (await cloud.ask("GET", signed(cloud, "GET", path, digest), by=None)).body == b"data"
    assert (await cloud.ask("GET", signed(cloud, "GET", path, "sha512", base64=True), by=None)).status == 200
    for key in ("second", "third"):
        assert (await cloud.ask("HEAD", signed(cloud, "GET", path, key=key), by=None)).status == 200
    prefix = "/v1/AUTH_science/c/dir/"
    url = signed(cloud, "GET", path, prefix_path=prefix, temp_url_prefix="dir/")
    assert (await cloud.ask("GET", url, by=None)).status == 200
    url = signed(cloud, "GET", path, temp_url_ip_range="127.0.0.0/8")
    assert (await cloud.ask("GET", url, by=None)).status == 200
    iso = signed(cloud, "GET", path).replace(str(int(cloud.time.now_s) + 60), "2027-01-15T08:01:00Z")
    assert (await cloud.ask("GET", iso, by=None)).status == 200


async def test_what_browsers_are_told(cloud: Cloud) -> None:
    """Save it under the object's or a given name, or show it."""
    path = "/v1/AUTH_science/c/dir/ö"
    await cloud.put(quote("c/dir/ö"))
    await cloud.ask("POST", "/v1/AUTH_science", x_account_meta_temp_url_key=KEY)
    plain = await cloud.ask("GET", signed(cloud, "GET", path), by=None)
    assert plain.headers["content-disposition"] == "attachment; filename=\"_\"; filename*=UTF-8''%C3%B6"
    assert plain.headers["expires"].endswith("GMT")
    named = await cloud.ask("GET", signed(cloud, "GET", path, filename='a"b.txt'), by=None)
    assert named.headers["content-disposition"] == "attachment; filename=\"a_b.txt\"; filename*=UTF-8''a%22b.txt"
    shown = await cloud.ask("GET", signed(cloud, "GET", path, inline=""), by=None)
    assert shown.headers["content-disposition"] == "inline"


async def test_signed_urls_that_are_refused(cloud: Cloud) -> None:
    """Too late, for something else, by another key, or for more than the one object."""
    path = "/v1/AUTH_science/c/o"
    await cloud.put("c/o")
    good = signed(cloud, "GET", path)
    assert (await cloud.ask("GET", good, by=None)).status == 401
    await cloud.ask("POST", "/v1/AUTH_science", x_account_meta_temp_url_key=KEY)
    assert (await cloud.ask("GET", good, by=None)).status == 200
    for url in (
        signed(cloud, "GET", path, key="wrong"),
        signed(cloud, "PUT", path),
        signed(cloud, "GET", path, expires_s=int(cloud.time.now_s)),
        signed(cloud, "GET", path, expires_s="rubbish"),
        signed(cloud, "GET", path).replace("c/o", "c/p"),
        signed(cloud, "GET", path, temp_url_ip_range="10.0.0.0/8"),
        signed(cloud, "GET", path, prefix_path="/v1/AUTH_science/c/x", temp_url_prefix="x"),
        signed(cloud, "GET", "/v1/AUTH_science/c"),
        f"{path}?temp_url_sig=zz&temp_url_expires=2000000000",
        f"{path}?temp_url_sig={'0' * 64}",
    ):
        assert (await cloud.ask("GET", url, by=None)).status == 401, url
    assert (await cloud.ask("DELETE", good, by=None)).status == 401
    put = signed(cloud, "PUT", path)
    assert (await cloud.ask("PUT", put, b"new", by=None)).status == 201
    assert (await cloud.ask("PUT", put, b"", by=None, x_object_manifest="c/x")).status == 400
    assert (await cloud.ask("PUT", put, b"", by=None, x_copy_from="c/x")).status == 400
    assert (await cloud.ask("PUT", put + "&multipart-manifest=put", b"[]", by=None)).status == 400
    cloud.time.now_s += 61
    assert (await cloud.ask("GET", good, by=None)).status == 401


async def test_web_pages(cloud: Cloud) -> None:
    """A container says which pages may use it; others get no headers and no preflight."""
    await cloud.put("c/o")
    page, other = "https://page.example", "https://other.example"
    assert (await cloud.ask("OPTIONS", "c/o", by=None, origin=page, access_control_request_method="GET")).status == 401
    await cloud.ask(
        "POST", "c", x_container_meta_access_control_allow_origin=page, x_container_meta_access_control_max_age="60"
    )
    preflight = await cloud.ask(
        "OPTIONS",
        "c/o",
        by=None,
        origin=page,
        access_control_request_method="PUT",
        access_control_request_headers="x-a",
    )
    assert (preflight.status, preflight.headers["access-control-allow-origin"]) == (200, page)
    assert "PUT" in preflight.headers["access-control-allow-methods"]
    assert (preflight.headers["access-control-allow-headers"], preflight.headers["access-control-max-age"]) == (
        "x-a",
        "60",
    )
    got = await cloud.ask("GET", "c/o", origin=page)
    assert got.headers["access-control-allow-origin"] == page
    assert "etag" in got.headers["access-control-expose-headers"]
    assert "access-control-allow-origin" not in (await cloud.ask("GET", "c/o", origin=other)).headers
    refused = await cloud.ask("OPTIONS", "c/o", by=None, origin=page, access_control_request_method="BREW")
    assert refused.status == 401
    await cloud.ask("POST", "c", x_container_meta_access_control_allow_origin="*")
    assert (await cloud.ask("GET", "c/o", origin=other)).headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("path", ["/auth/v1.0", "/v1.0", "/auth"])
async def test_logging_in(cloud: Cloud, path: str) -> None:
    """Name and password for a token and an address made of the Host that was used."""
    await cloud.identity.add_user("maths", "emmy", password="ring theory")
    for user, key in (("x_auth_user", "x_auth_key"), ("x_storage_user", "x_storage_pass")):
        answer = await cloud.ask("GET", path, by=None, **{user: "maths:emmy", key: "ring theory"})
        assert answer.status == 200
        assert answer.headers["x-storage-url"] == "http://store.example:8080/v1/AUTH_maths"
        assert answer.headers["x-auth-token"] == answer.headers["x-storage-token"]
        assert int(answer.headers["x-auth-token-expires"]) > 3600
    cloud.tokens["emmy"] = answer.headers["x-auth-token"]
    assert (await cloud.ask("PUT", "/v1/AUTH_maths/rings", by="emmy")).status == 201
    for headers in (
        {},
        {"x_auth_user": "maths:emmy"},
        {"x_auth_user": "maths:emmy", "x_auth_key": "wrong"},
        {"x_auth_user": "nobody", "x_auth_key": "x"},
        {"x_auth_user": b"\xff:\xff", "x_auth_key": b"\xff"},
    ):
        refused = await cloud.ask("GET", path, by=None, **headers)  # type: ignore[arg-type]
        assert refused.status == 401
        assert "www-authenticate" in refused.headers
    assert (await cloud.ask("POST", path, by=None)).status == 405


async def test_info(cloud: Cloud) -> None:
    """Anybody may ask what there is."""
    info = (await cloud.ask("GET", "/info", by=None)).json()
    assert info["swift"]["max_file_size"] == 5 * 1024**3
    assert {"slo", "dlo", "bulk_delete", "tempurl"} <= set(info)
    assert (await cloud.ask("PUT", "/info", b"", by=None)).status == 405
    assert (await cloud.ask("GET", "/auth/v2.0", by=None)).status == 404
