"""AWS Signature Version 4: what a request claims, and whether its signature proves it. Pure.

Problem: the signature covers a canonical form of the request, which the client computed from what it meant and we must
compute from what arrived. Clients differ in how they percent-encode, proxies on the way decode and encode again, and a
form that is too lenient would let a signature stand for another request.

Idea: two steps. `parse_claim` (see `sigv4_claim`) reads who claims to have signed what, with no secret at hand; the caller
looks the access key up; `Verifier.verify` then rebuilds the canonical request from the
raw path and query, each name and value decoded once and encoded again by S3's rules, and compares in constant time.
Signing keys are kept (bounded), for they change once a day and cost four HMACs.

Rejected: taking the path as it came. A client that sends `~` as `%7E` signs `~`.

Source: "Authenticating Requests (AWS Signature Version 4)" in the Amazon S3 API Reference.

Invariants:
- The host header and every x-amz-* header that is there are signed, or the request is refused.
- Nothing about a secret is in any error; the string to sign is, as AWS gives it, for it holds nothing that the client
  does not have.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from time import gmtime, strftime
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from proxy.s3.errors import S3Error
from proxy.s3.sigv4_claim import (
    PAYLOAD_KINDS,
    STREAMING_SIGNED,
    STREAMING_SIGNED_TRAILER,
    STREAMING_UNSIGNED_TRAILER,
    UNSIGNED,
    Claim,
    bad_query,
    decoded_pairs,
    has_claim,
    malformed,
    only_one_mechanism,
    parse_claim,
)

__all__ = [
    "PAYLOAD_KINDS",
    "STREAMING_SIGNED",
    "STREAMING_SIGNED_TRAILER",
    "STREAMING_UNSIGNED_TRAILER",
    "UNSIGNED",
    "ChunkSigning",
    "Claim",
    "Verifier",
    "has_claim",
    "only_one_mechanism",
    "parse_claim",
]

SKEW_S_MAX: Final = 15 * 60
KEYS_KEPT_MAX: Final = 4096

_PLAIN_PATH: Final = re.compile(rb"[A-Za-z0-9/._~-]*")


@dataclass(frozen=True, slots=True)
class ChunkSigning:
    """What the signatures of a body's chunks hang on: the head's signature is the first of the chain."""

    signing_key: bytes
    seed_signature: bytes
    amz_date: str
    scope: str


def canonical_path(path: bytes) -> bytes:
    """A raw path as it is signed: decoded, and all but unreserved characters and `/` encoded."""
    if _PLAIN_PATH.fullmatch(path):
        return path
    return quote_from_bytes(unquote_to_bytes(path), safe="/-_.~").encode("ascii")


def canonical_query(query: bytes) -> bytes:
    """A raw query as it is signed: decoded, encoded, sorted, without the signature itself."""
    if not query:
        return b""
    pairs = [
        (quote_from_bytes(name, safe="-_.~"), quote_from_bytes(value, safe="-_.~"))
        for name, value in decoded_pairs(query)
        if name != b"X-Amz-Signature"
    ]
    pairs.sort()
    return "&".join([f"{name}={value}" for name, value in pairs]).encode("ascii")


def canonical_request(claim: Claim, method: str, path: bytes, query: bytes, headers: Mapping[bytes, bytes]) -> bytes:
    """What was signed of the request, as far as this request is the one that was signed."""
    lines = [method.encode("ascii"), canonical_path(path), canonical_query(query)]
    lines += [name + b":" + b" ".join(headers.get(name, b"").split()) for name in claim.signed_headers]
    lines.append(b"")
    lines.append(b";".join(claim.signed_headers))
    lines.append(claim.payload.encode("ascii"))
    return b"\n".join(lines)


def string_to_sign(claim: Claim, canonical: bytes) -> bytes:
    """Date, scope and the hash of the canonical request."""
    return f"AWS4-HMAC-SHA256\n{claim.amz_date}\n{claim.scope}\n{hashlib.sha256(canonical).hexdigest()}".encode("ascii")


def signing_key(secret: str, date: str, region: str, service: str = "s3") -> bytes:
    """The key of one secret, day, region and service."""
    key = hmac.digest(b"AWS4" + secret.encode(), date.encode(), "sha256")
    key = hmac.digest(key, region.encode(), "sha256")
    key = hmac.digest(key, service.encode(), "sha256")
    return hmac.digest(key, b"aws4_request", "sha256")


class Verifier:
    """Verifies claims, and keeps the signing keys of those whom it has met.

    `region`: the only one that is accepted; None accepts what the client signed for.
    """

    def __init__(self, region: str | None = None, keys_kept_max: int = KEYS_KEPT_MAX) -> None:
        self._region = region
        self._keys_kept_max = keys_kept_max
        self._keys: dict[tuple[str, str, str], bytes] = {}

    def signing_key(self, secret: str, date: str, region: str) -> bytes:
        """Like the function, remembered."""
        name = (secret, date, region)
        key = self._keys.get(name)
        if key is None:
            key = signing_key(secret, date, region)
            if len(self._keys) >= self._keys_kept_max:
                del self._keys[next(iter(self._keys))]  # the oldest
            self._keys[name] = key
        return key

    def verify(
        self,
        claim: Claim,
        secret: str,
        method: str,
        path: bytes,
        query: bytes,
        headers: Mapping[bytes, bytes],
        now_s: float,
    ) -> ChunkSigning:
        """Raises `S3Error` unless the request was signed as claimed, with that secret, and is valid now.

        `path` and `query` are raw, as received. What it returns is needed for bodies whose chunks are signed.
        """
        check_time(claim, now_s)
        if self._region is not None and claim.region != self._region:
            message = f"the region '{claim.region}' is wrong; expecting '{self._region}'"
            if claim.expires_s is not None:
                raise bad_query(f"Error parsing the X-Amz-Credential parameter; {message}")
            raise malformed(message, fields=(("Region", self._region),))
        check_signed_headers(claim, headers)
        canonical = canonical_request(claim, method, path, query, headers)
        to_sign = string_to_sign(claim, canonical)
        key = self.signing_key(secret, claim.date, claim.region)
        expected = hmac.digest(key, to_sign, "sha256").hex().encode("ascii")
        if not hmac.compare_digest(expected, claim.signature):
            raise does_not_match(claim.access_key, claim.signature, to_sign, canonical)
        return ChunkSigning(key, claim.signature, claim.amz_date, claim.scope)


def check_time(claim: Claim, now_s: float) -> None:
    """Raises `S3Error` for a claim that is not valid now."""
    if claim.expires_s is None:
        check_skew(claim.signed_s, claim.amz_date, now_s)
        return
    if claim.signed_s > now_s + SKEW_S_MAX:
        raise S3Error("AccessDenied", "Request is not yet valid", fields=(("ServerTime", iso_time(now_s)),))
    if now_s > claim.signed_s + claim.expires_s:
        raise S3Error(
            "AccessDenied",
            "Request has expired",
            fields=(
                ("X-Amz-Expires", str(claim.expires_s)),
                ("Expires", iso_time(claim.signed_s + claim.expires_s)),
                ("ServerTime", iso_time(now_s)),
            ),
        )


def check_skew(signed_s: int, as_given: str, now_s: float) -> None:
    """Raises RequestTimeTooSkewed where the client's clock is too far from ours."""
    if abs(now_s - signed_s) > SKEW_S_MAX:
        raise S3Error(
            "RequestTimeTooSkewed",
            fields=(
                ("RequestTime", as_given),
                ("ServerTime", iso_time(now_s)),
                ("MaxAllowedSkewMilliseconds", str(SKEW_S_MAX * 1000)),
            ),
        )


def check_signed_headers(claim: Claim, headers: Mapping[bytes, bytes]) -> None:
    """Raises AccessDenied where a header that must be signed is not."""
    signed = claim.signed_headers
    unsigned = [
        name.decode("latin-1")
        for name in headers
        if name not in signed and name.startswith((b"x-amz-", b"host")) and _must_be_signed(name, claim)
    ]
    if unsigned or b"host" not in signed:
        raise S3Error(
            "AccessDenied",
            "There were headers present in the request which were not signed",
            fields=(("HeadersNotSigned", ", ".join(unsigned or ["host"])),),
        )


def _must_be_signed(name: bytes, claim: Claim) -> bool:
    """Of a header that begins with x-amz- or host. A presigned request's body need not have been known when signing."""
    if name.startswith(b"x-amz-"):
        return claim.expires_s is None or name != b"x-amz-content-sha256"
    return name == b"host"


def does_not_match(access_key: str, signature: bytes, to_sign: bytes, canonical: bytes | None) -> S3Error:
    """SignatureDoesNotMatch, with what was signed, so that a client's author can see where the two differ."""
    fields = [
        ("AWSAccessKeyId", access_key),
        ("StringToSign", to_sign.decode("utf-8", "replace")),
        ("SignatureProvided", signature.decode("latin-1")),
        ("StringToSignBytes", to_sign.hex(" ")),
    ]
    if canonical is not None:
        fields.append(("CanonicalRequest", canonical.decode("utf-8", "replace")))
        fields.append(("CanonicalRequestBytes", canonical.hex(" ")))
    return S3Error("SignatureDoesNotMatch", fields=tuple(fields))


def iso_time(seconds: float) -> str:
    """YYYY-MM-DDTHH:MM:SSZ."""
    return strftime("%Y-%m-%dT%H:%M:%SZ", gmtime(seconds))
