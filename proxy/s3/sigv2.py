"""AWS Signature Version 2, which old clients still use (`s3cmd --signature-v2`). Pure.

Idea: the same two steps as in `sigv4`: `parse_claim`, then `verify` with the secret that the access key belongs to. The
signature is an HMAC-SHA1 over a few headers, the x-amz-* headers and the resource, in a header or in the query with an
expiry. It covers neither the body nor most headers and query parameters, so nothing that matters may hang on those alone.

Source: "Signing and authenticating REST requests (AWS signature version 2)" in the Amazon S3 Developer Guide.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import unquote_to_bytes

from proxy.s3.errors import S3Error
from proxy.s3.sigv4 import check_skew, does_not_match, iso_time, only_one_mechanism

SIGNED_PARAMETERS: Final = frozenset(
    (
        b"accelerate", b"acl", b"analytics", b"cors", b"defaultObjectAcl", b"delete", b"encryption", b"inventory",
        b"legal-hold", b"lifecycle", b"location", b"logging", b"metrics", b"notification", b"object-lock",
        b"ownershipControls", b"partNumber", b"policy", b"policyStatus", b"publicAccessBlock", b"replication",
        b"requestPayment", b"response-cache-control", b"response-content-disposition", b"response-content-encoding",
        b"response-content-language", b"response-content-type", b"response-expires", b"restore", b"retention",
        b"select", b"select-type", b"storageClass", b"tagging", b"torrent", b"uploadId", b"uploads", b"versionId",
        b"versioning", b"versions", b"website",
    )
)  # fmt: skip
"""Query parameters that name a sub-resource or override a response header: the only ones that are signed."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request says of its own signature."""

    access_key: str
    signature: bytes
    """Base64, as given."""
    date: bytes
    """The Date line of what was signed: a header's value, b"" with x-amz-date, or the expiry."""
    signed_s: int | None
    """When it was signed, seconds since 1970; None for a query's."""
    expires_s: int | None
    """Until when it is valid, seconds since 1970; None for a header's."""


def has_claim(query: bytes, headers: Mapping[bytes, bytes]) -> bool:
    """True: the request claims a signature of version 2 (which may be malformed)."""
    return headers.get(b"authorization", b"").startswith(b"AWS ") or b"AWSAccessKeyId=" in query


def parse_claim(query: bytes, headers: Mapping[bytes, bytes]) -> Claim:
    """The claim of a request that has one. Raises `S3Error` where it is malformed."""
    authorization = headers.get(b"authorization")
    if b"AWSAccessKeyId=" in query:
        if authorization is not None:
            raise only_one_mechanism(authorization)
        return _claim_of_query(query)
    if authorization is None:
        raise S3Error("AccessDenied")
    access_key, separator, signature = authorization.removeprefix(b"AWS ").strip().rpartition(b":")
    if not separator or not access_key or not signature or not access_key.isascii():
        raise S3Error(
            "InvalidArgument",
            'Authorization header is invalid; expected "AWS AccessKeyId:Signature"',
            fields=(("ArgumentName", "Authorization"), ("ArgumentValue", authorization.decode("latin-1"))),
        )
    amz_date = headers.get(b"x-amz-date")
    given = headers.get(b"date", b"") if amz_date is None else amz_date
    try:
        moment = parsedate_to_datetime(given.decode("latin-1"))
        if moment.tzinfo is None:
            if not given.endswith(b"-0000"):  # UTC too (RFC 5322, 3.3), and what boto3 writes
                raise ValueError("no time zone")
            moment = moment.replace(tzinfo=UTC)
        signed_s = int(moment.timestamp())
        if signed_s < 0:
            raise ValueError("before 1970")
    except (ValueError, OverflowError):
        raise S3Error("AccessDenied", "AWS authentication requires a valid Date or x-amz-date header") from None
    return Claim(access_key.decode("ascii"), signature, given if amz_date is None else b"", signed_s, None)


def _claim_of_query(query: bytes) -> Claim:
    values = dict(_decoded_pairs(query))
    access_key = values.get(b"AWSAccessKeyId")
    signature = values.get(b"Signature")
    expires = values.get(b"Expires")
    if not access_key or not signature or not expires or not access_key.isascii():
        raise S3Error(
            "AccessDenied", "Query-string authentication requires the Signature, Expires and AWSAccessKeyId parameters"
        )
    if not expires.isdigit() or len(expires) > 18:
        raise S3Error("AccessDenied", f"Invalid date (should be seconds since epoch): {expires.decode('latin-1')}")
    return Claim(access_key.decode("ascii"), signature, expires, None, int(expires))


def _decoded_pairs(query: bytes) -> list[tuple[bytes, bytes | None]]:
    """Names and decoded values; None for a name without `=`."""
    pairs: list[tuple[bytes, bytes | None]] = []
    for part in query.split(b"&"):
        name, separator, value = part.partition(b"=")
        pairs.append((unquote_to_bytes(name), unquote_to_bytes(value) if separator else None))
    return pairs


def string_to_sign(
    claim: Claim, method: str, path: bytes, query: bytes, headers: Mapping[bytes, bytes], host_bucket: bytes | None
) -> bytes:
    """What was signed. `host_bucket` is the bucket that the host names, where the path does not hold it."""
    lines = [method.encode("ascii"), headers.get(b"content-md5", b""), headers.get(b"content-type", b""), claim.date]
    lines += [name + b":" + headers[name] for name in sorted(headers) if name.startswith(b"x-amz-")]
    resource = path if host_bucket is None else b"/" + host_bucket + path
    signed = sorted(
        (name if value is None else name + b"=" + value)
        for name, value in (_decoded_pairs(query) if query else ())
        if name in SIGNED_PARAMETERS
    )
    if signed:
        resource += b"?" + b"&".join(signed)
    lines.append(resource)
    return b"\n".join(lines)


def verify(
    claim: Claim,
    secret: str,
    method: str,
    path: bytes,
    query: bytes,
    headers: Mapping[bytes, bytes],
    now_s: float,
    host_bucket: bytes | None,
) -> None:
    """Raises `S3Error` unless the request was signed as claimed, with that secret, and is valid now.

    `path` and `query` are raw, as received.
    """
    if claim.expires_s is not None and now_s > claim.expires_s:
        raise S3Error(
            "AccessDenied",
            "Request has expired",
            fields=(("Expires", iso_time(claim.expires_s)), ("ServerTime", iso_time(now_s))),
        )
    if claim.signed_s is not None:
        check_skew(claim.signed_s, claim.date.decode("latin-1"), now_s)
    to_sign = string_to_sign(claim, method, path, query, headers, host_bucket)
    if _signs(secret, to_sign, claim):
        return
    # A bucket's address has no slash at its end; some clients (boto3) sign it with one.
    names_bucket_alone = path.count(b"/") == 1 and len(path) > 1 and host_bucket is None
    if names_bucket_alone and _signs(secret, string_to_sign(claim, method, path + b"/", query, headers, None), claim):
        return
    raise does_not_match(claim.access_key, claim.signature, to_sign, None)


def _signs(secret: str, to_sign: bytes, claim: Claim) -> bool:
    expected = base64.b64encode(hmac.digest(secret.encode(), to_sign, "sha1"))
    return hmac.compare_digest(expected, claim.signature)
