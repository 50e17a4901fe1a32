"""Signed URLs: one object for anybody who has the address, for a time.

    /v1/AUTH_science/c/o?temp_url_sig=…&temp_url_expires=1700000000[&temp_url_prefix=…][&filename=…][&inline]

The signature is an HMAC over method, expiry and path (or `prefix:` and the path's beginning; with `ip=RANGE` before all)
under a key that the account or the container has in its metadata, `Temp-URL-Key` or `Temp-URL-Key-2`, so that keys can be
changed one after the other. A URL signed for GET, PUT or POST is good for HEAD too.

Invariants: signatures are compared in constant time; a signed URL gives the rights of the account's owner on this one
object and no more; a PUT by one may not make a manifest, which could name any object of the account.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from urllib.parse import quote, unquote_to_bytes

from proxy.http.message import HeaderList, Request, parse_query
from proxy.model import Metadata, NoSuchAccount, NoSuchContainer
from proxy.swift.call import Service
from proxy.swift.errors import SwiftError
from proxy.swift.metadata import META
from proxy.swift.paths import Target
from proxy.swift.settings import SIGNATURE_DIGESTS, TEMPURL_METHODS
from proxy.swift.times import http_date

_KEYS = (f"{META}temp-url-key", f"{META}temp-url-key-2")
_SIGNED_ELSEWHERE = {"HEAD": ("HEAD", "GET", "PUT", "POST")}
_DIGEST_OF_LENGTH = {20: "sha1", 32: "sha256", 64: "sha512"}
_FORBIDDEN_ON_PUT = (b"x-object-manifest", b"x-copy-from", b"x-symlink-target")
_NOT_IN_QUOTES = re.compile(r'["\\\x00-\x1f\x7f-\uffff]')


def is_signed(query: bytes) -> bool:
    """Whether a query asks to be judged by its signature."""
    return b"temp_url_sig=" in query or b"temp_url_expires=" in query


async def check_signature(service: Service, request: Request, target: Target) -> None:
    """Whether a signed URL is good for this request. Raises SwiftError 401, 400."""
    parameters = parse_query(request.query)
    method = request.method
    expires_s = _expiry(parameters.get("temp_url_expires", ""))
    signature = _signature(parameters.get("temp_url_sig", ""))
    path = request.path if b"%" not in request.path else unquote_to_bytes(request.path)
    valid = (
        target.name != b""
        and method in TEMPURL_METHODS
        and expires_s is not None
        and expires_s > service.clock()
        and signature is not None
        and _address_fits(parameters, request.client)
    )
    if not valid or signature is None or expires_s is None:
        raise SwiftError(401, "Temp URL invalid")
    signed_path = path
    if "temp_url_prefix" in parameters:
        prefix = parameters["temp_url_prefix"].encode("utf-8", "surrogateescape")
        if not target.name.startswith(prefix):
            raise SwiftError(401, "Temp URL invalid")
        signed_path = b"prefix:" + path[: len(path) - len(target.name)] + prefix
    digest, expected = signature
    beginning = b"ip=%b\n" % parameters["temp_url_ip_range"].encode() if "temp_url_ip_range" in parameters else b""
    texts = [
        b"%b%b\n%d\n%b" % (beginning, name.encode(), expires_s, signed_path)
        for name in _SIGNED_ELSEWHERE.get(method, (method,))
    ]
    good = False
    for key in await _keys(service, target):
        for text in texts:
            good |= hmac.compare_digest(hmac.digest(key, text, digest), expected)
    if not good:
        raise SwiftError(401, "Temp URL invalid")
    if method in ("PUT", "POST"):
        for header in _FORBIDDEN_ON_PUT:
            if header in request.headers:
                raise SwiftError(400, f"The header {header.decode()} is not allowed in a signed request")
    if method not in ("GET", "HEAD") and "multipart-manifest" in parameters:
        raise SwiftError(400, "A signed URL is good for one object, not for those of its manifest")


def decorate(headers: HeaderList, parameters: Mapping[str, str], target: Target) -> None:
    """What a browser does with the object: save it under a name, unless `inline` says otherwise."""
    expires_s = _expiry(parameters.get("temp_url_expires", ""))
    if expires_s is not None:
        headers[:] = [header for header in headers if header[0] != b"Expires"]
        headers.append((b"Expires", http_date(expires_s * 1_000_000)))
    said = any(header[0] == b"Content-Disposition" for header in headers)
    if said and "filename" not in parameters and "inline" not in parameters:
        return
    headers[:] = [header for header in headers if header[0] != b"Content-Disposition"]
    filename = parameters.get("filename") or target.name.rstrip(b"/").rpartition(b"/")[2].decode("utf-8", "replace")
    kind = "inline" if "inline" in parameters else "attachment"
    disposition = kind
    if kind == "attachment" or parameters.get("filename"):
        plain = _NOT_IN_QUOTES.sub("_", filename)
        encoded = quote(filename.encode("utf-8", "surrogateescape"), safe="")
        disposition = f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{encoded}"
    headers.append((b"Content-Disposition", disposition.encode("latin-1", "replace")))


async def _keys(service: Service, target: Target) -> list[bytes]:
    metadata: list[Metadata] = []
    try:
        metadata.append((await service.store.head_account(target.account)).metadata)
        metadata.append((await service.store.head_container(target.account, target.container)).metadata)
    except (NoSuchAccount, NoSuchContainer):
        pass  # what is not there has no keys
    return [items[name].encode("utf-8", "surrogateescape") for items in metadata for name in _KEYS if items.get(name)]


def _expiry(text: str) -> int | None:
    """Seconds since 1970, given as such or as ISO 8601 in UTC."""
    if text.isascii() and text.isdigit() and len(text) < 12:
        return int(text)
    for form in ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"):
        try:
            return int(datetime.strptime(text, form).replace(tzinfo=UTC).timestamp())
        except ValueError:
            continue
    return None


def _signature(text: str) -> tuple[str, bytes] | None:
    """Digest and value of a signature: hexadecimal, or `sha512:` and base64."""
    name, colon, encoded = text.partition(":")
    try:
        if colon:
            padded = encoded.replace("-", "+").replace("_", "/") + "=" * (-len(encoded) % 4)
            value = base64.b64decode(padded, validate=True)
        else:
            value = bytes.fromhex(text)
    except (ValueError, binascii.Error):
        return None
    digest = _DIGEST_OF_LENGTH.get(len(value))
    if digest is None or digest not in SIGNATURE_DIGESTS or (colon and name != digest):
        return None
    return digest, value


def _address_fits(parameters: Mapping[str, str], client: str) -> bool:
    if "temp_url_ip_range" not in parameters:
        return True
    try:
        host = client.rpartition(":")[0] if client.count(":") == 1 or client.startswith("[") else client
        return ip_address(host.strip("[]")) in ip_network(parameters["temp_url_ip_range"])
    except ValueError:
        return False
