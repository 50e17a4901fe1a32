"""Requests, ready to send: rendered, and signed where S3 wants it, before the clock runs.

Problem: what is to be timed is the store, not the client. Composing a request costs a load generator as much as answering it
costs a good server, signing one (SigV4: five HMACs, two SHA-256) more.

Idea: a dialect turns (method, container, object) into the bytes of a request's head. Heads are made in bulk before a run and
handed to the generator as they are. S3 signatures are in headers, with `UNSIGNED-PAYLOAD`: they are good for fifteen
minutes, so heads are made for each run anew. The body that follows is the same for all requests of a workload.

Source of SigV4: "Authenticating Requests: Using the Authorization Header", Amazon S3 API Reference.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
from typing import Protocol
from urllib.parse import quote

from bench.systems.base import NotSupported, S3Access, SwiftAccess, System

UNSIGNED = "UNSIGNED-PAYLOAD"


class Dialect(Protocol):
    """How requests are spelled."""

    name: str

    def head(self, method: str, container: str, name: str = "", query: str = "", body_bytes: int = 0) -> bytes:
        """The head of a request, the empty line included. `query` is sorted, and quoted already."""
        ...

    def page_query(self, marker: str, limit: int) -> str:
        """The query of a page of a listing behind a name."""
        ...


class SwiftDialect:
    """Swift's, with a token."""

    name = "swift"

    def __init__(self, access: SwiftAccess) -> None:
        self._access = access

    def head(self, method: str, container: str, name: str = "", query: str = "", body_bytes: int = 0) -> bytes:
        """See Dialect."""
        path = f"{self._access.account_path}/{container}" + (f"/{quote(name)}" if name else "")
        lines = [
            f"{method} {path}{'?' + query if query else ''} HTTP/1.1",
            "Host: bench",
            f"X-Auth-Token: {self._access.token}",
        ]
        if method in ("PUT", "POST"):
            lines += [f"Content-Length: {body_bytes}", "Content-Type: application/octet-stream"]
        return "\r\n".join([*lines, "", ""]).encode()

    def page_query(self, marker: str, limit: int) -> str:
        """See Dialect."""
        return f"format=json&limit={limit}&marker={quote(marker)}"


class S3Dialect:
    """S3's, signed (version 4) at one moment."""

    name = "s3"

    def __init__(self, access: S3Access, host: str, now: datetime.datetime | None = None) -> None:
        self._access = access
        self._host = host
        moment = now or datetime.datetime.now(datetime.UTC)
        self._date = moment.strftime("%Y%m%dT%H%M%SZ")
        day = self._date[:8]
        self._scope = f"{day}/{access.region}/s3/aws4_request"
        key = f"AWS4{access.secret_key}".encode()
        for part in (day, access.region, "s3", "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        self._key = key

    def head(self, method: str, container: str, name: str = "", query: str = "", body_bytes: int = 0) -> bytes:
        """See Dialect."""
        path = f"/{container}" + (f"/{quote(name)}" if name else "")
        headers = f"host:{self._host}\nx-amz-content-sha256:{UNSIGNED}\nx-amz-date:{self._date}\n"
        signed = "host;x-amz-content-sha256;x-amz-date"
        canonical = f"{method}\n{path}\n{query}\n{headers}\n{signed}\n{UNSIGNED}"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        to_sign = f"AWS4-HMAC-SHA256\n{self._date}\n{self._scope}\n{digest}"
        signature = hmac.digest(self._key, to_sign.encode(), "sha256").hex()
        credential = f"Credential={self._access.access_key}/{self._scope}"
        authorization = f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={signed}, Signature={signature}"
        lines = [
            f"{method} {path}{'?' + query if query else ''} HTTP/1.1",
            f"Host: {self._host}",
            f"x-amz-content-sha256: {UNSIGNED}",
            f"x-amz-date: {self._date}",
            f"Authorization: {authorization}",
        ]
        if method in ("PUT", "POST"):
            lines.append(f"Content-Length: {body_bytes}")
        return "\r\n".join([*lines, "", ""]).encode()

    def page_query(self, marker: str, limit: int) -> str:
        """See Dialect. ListObjectsV2."""
        return f"list-type=2&max-keys={limit}&start-after={quote(marker, safe='')}"


def dialect_of(system: System, name: str) -> Dialect:
    """A dialect of a system, signing from now on. Raises NotSupported."""
    if name == "swift" and system.swift is not None:
        return SwiftDialect(system.swift)
    if name == "s3" and system.s3 is not None:
        return S3Dialect(system.s3, f"127.0.0.1:{system.port}")
    raise NotSupported(f"{system.name} does not speak {name}")
