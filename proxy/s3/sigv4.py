"""AWS Signature Version 4: what a request claims, and whether its signature proves it. Pure.

Problem: the signature covers a canonical form of the request, which the client computed from what it meant and we must
compute from what arrived. Clients differ in how they percent-encode, proxies on the way decode and encode again, and a
form that is too lenient would let a signature stand for another request.

Idea: two steps. `parse_claim` reads who claims to have signed what (from the Authorization header or a presigned query),
with no secret at hand; the caller looks the access key up; `Verifier.verify` then rebuilds the canonical request from the
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

import calendar
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from time import gmtime, strftime
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from proxy.s3.errors import S3Error

ALGORITHM: Final = b"AWS4-HMAC-SHA256"
SKEW_S_MAX: Final = 15 * 60
EXPIRES_S_MAX: Final = 7 * 24 * 3600
KEYS_KEPT_MAX: Final = 4096
REMEMBERED_MAX: Final = 512
"""Parsed parts of recent requests, of each kind, that are remembered because the next request repeats them."""

UNSIGNED: Final = "UNSIGNED-PAYLOAD"
STREAMING_SIGNED: Final = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
STREAMING_SIGNED_TRAILER: Final = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
STREAMING_UNSIGNED_TRAILER: Final = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
PAYLOAD_KINDS: Final = frozenset((UNSIGNED, STREAMING_SIGNED, STREAMING_SIGNED_TRAILER, STREAMING_UNSIGNED_TRAILER))

QUERY_PARAMETERS: Final = (
    b"X-Amz-Algorithm", b"X-Amz-Credential", b"X-Amz-Signature", b"X-Amz-Date", b"X-Amz-SignedHeaders", b"X-Amz-Expires",
)  # fmt: skip

_PLAIN_PATH: Final = re.compile(rb"[A-Za-z0-9/._~-]*")
_AMZ_DATE: Final = re.compile(rb"(\d{4})(\d{2})(\d{2})T(\d{2})(\d{2})(\d{2})Z")
_SHA256_HEX: Final = re.compile(r"[0-9a-fA-F]{64}")
_SIGNATURE: Final = re.compile(rb"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request says of its own signature."""

    access_key: str
    date: str
    """YYYYMMDD, of the scope."""
    region: str
    signed_headers: tuple[bytes, ...]
    signature: bytes
    """64 hexadecimal digits."""
    amz_date: str
    """YYYYMMDDTHHMMSSZ: when it was signed."""
    signed_s: int
    """The same, in seconds since 1970."""
    payload: str
    """What was signed for the body: one of `PAYLOAD_KINDS`, or the SHA-256 of it in hexadecimal digits."""
    expires_s: int | None
    """For a presigned request: valid for so long; None for a header's signature."""

    @property
    def scope(self) -> str:
        """Date, region, service and terminator, as the string to sign has them."""
        return f"{self.date}/{self.region}/s3/aws4_request"


@dataclass(frozen=True, slots=True)
class ChunkSigning:
    """What the signatures of a body's chunks hang on: the head's signature is the first of the chain."""

    signing_key: bytes
    seed_signature: bytes
    amz_date: str
    scope: str


def has_claim(query: bytes, headers: Mapping[bytes, bytes]) -> bool:
    """True: the request claims a signature of version 4 (which may be malformed)."""
    return headers.get(b"authorization", b"").startswith(b"AWS4-") or b"X-Amz-Algorithm=" in query


def parse_claim(query: bytes, headers: Mapping[bytes, bytes]) -> Claim:
    """The claim of a request that has one. Raises `S3Error` where it is malformed."""
    authorization = headers.get(b"authorization")
    if b"X-Amz-Algorithm=" in query:
        if authorization is not None:
            raise only_one_mechanism(authorization)
        return _claim_of_query(query, headers)
    if authorization is None:
        raise S3Error("AccessDenied")
    return _claim_of_header(authorization, headers)


def only_one_mechanism(authorization: bytes) -> S3Error:
    """For a request that is signed in more than one way."""
    return S3Error(
        "InvalidArgument",
        "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string parameter or "
        "the Authorization header should be specified",
        fields=(("ArgumentName", "Authorization"), ("ArgumentValue", authorization.decode("latin-1"))),
    )


# ------------------------------------------------------------------------------------------------------- header and query


def _malformed(message: str, fields: tuple[tuple[str, str], ...] = ()) -> S3Error:
    return S3Error("AuthorizationHeaderMalformed", f"The authorization header is malformed; {message}", fields=fields)


def _bad_query(message: str) -> S3Error:
    return S3Error("AuthorizationQueryParametersError", message)


def _claim_of_header(authorization: bytes, headers: Mapping[bytes, bytes]) -> Claim:
    fixed, separator, signature = authorization.rpartition(b"Signature=")
    if not separator or not _SIGNATURE.fullmatch(signature):
        # The rare order, or an error: all three parts as one would read them.
        fixed, signature = _reordered(authorization)
    access_key, date, region, signed_headers = _parse_fixed(fixed)
    amz_date, signed_s = _time_of_headers(headers)
    if not amz_date.startswith(date):
        raise _malformed(
            f'Invalid credential date "{date}". This date is not the same as X-Amz-Date: "{amz_date[:8]}".'
        )
    return Claim(
        access_key, date, region, signed_headers, signature, amz_date, signed_s, _payload_of_headers(headers), None
    )


def _reordered(authorization: bytes) -> tuple[bytes, bytes]:
    """A header whose Signature is not its last part: the header without it, and the signature."""
    algorithm, _, rest = authorization.partition(b" ")
    others = []
    signatures = []
    for part in rest.split(b","):
        name, _, value = part.strip().partition(b"=")
        if name == b"Signature":
            signatures.append(value)
        else:
            others.append(part.strip())
    if algorithm == ALGORITHM and len(signatures) != 1:
        raise _malformed("Signature is missing." if not signatures else "there is more than one Signature.")
    if algorithm == ALGORITHM and not _SIGNATURE.fullmatch(signatures[0]):
        raise _malformed("the Signature must be 64 lower-case hexadecimal digits.")
    return algorithm + b" " + b",".join(others) + b",", signatures[0] if signatures else b""


@lru_cache(REMEMBERED_MAX)
def _parse_fixed(fixed: bytes) -> tuple[str, str, str, tuple[bytes, ...]]:
    """Access key, date, region and signed headers: what a client's header says again and again, before `Signature=`."""
    algorithm, _, rest = fixed.partition(b" ")
    if algorithm != ALGORITHM:
        raise S3Error("InvalidRequest", "The authorization mechanism you have provided is not supported.")
    parts: dict[bytes, bytes] = {}
    for part in rest.rstrip(b", ").split(b","):
        name, separator, value = part.strip().partition(b"=")
        if not separator or name in parts:
            raise _malformed("it must be Credential, SignedHeaders and Signature, separated by commas.")
        parts[name] = value
    for name in (b"Credential", b"SignedHeaders"):
        if not parts.get(name):
            raise _malformed(f"{name.decode()} is missing.")
    if len(parts) != 2:
        raise _malformed("it must be Credential, SignedHeaders and Signature, and nothing else.")
    try:
        access_key, date, region = _split_credential(parts[b"Credential"])
    except ValueError as error:
        raise _malformed(str(error)) from None
    return access_key, date, region, tuple(parts[b"SignedHeaders"].split(b";"))


def _split_credential(credential: bytes) -> tuple[str, str, str]:
    """Access key, date and region. Raises ValueError that says what is wrong."""
    try:
        fields = credential.decode("ascii").split("/")
    except UnicodeDecodeError:
        raise ValueError("the Credential is not ASCII.") from None
    if len(fields) < 5:
        raise ValueError('the Credential is mal-formed; expecting "<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request".')
    *key_parts, date, region, service, terminator = fields
    if not key_parts[0] or not region:
        raise ValueError("the Credential has an empty field.")
    if len(date) != 8 or not date.isdigit():
        raise ValueError(
            f'incorrect date format "{date}". This date in the credential must be in the format "yyyyMMdd".'
        )
    if service != "s3":
        raise ValueError(f'incorrect service "{service}". This endpoint belongs to "s3".')
    if terminator != "aws4_request":
        raise ValueError(f'incorrect terminal "{terminator}". This endpoint uses "aws4_request".')
    return "/".join(key_parts), date, region


@lru_cache(REMEMBERED_MAX)
def parse_amz_date(text: bytes) -> int:
    """Seconds since 1970 of YYYYMMDDTHHMMSSZ. Raises ValueError."""
    match = _AMZ_DATE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not of the form YYYYMMDDTHHMMSSZ")
    year, month, day, hour, minute, second = map(int, match.groups())
    if not (year >= 1970 and 1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second <= 60):
        raise ValueError(f"{text!r} is no date")
    return calendar.timegm((year, month, day, hour, minute, second, 0, 0, 0))


def _time_of_headers(headers: Mapping[bytes, bytes]) -> tuple[str, int]:
    """When a header's signature was made: x-amz-date, or else Date."""
    given = headers.get(b"x-amz-date")
    try:
        if given is not None:
            return given.decode("latin-1"), parse_amz_date(given)
        given = headers.get(b"date", b"")
        if _AMZ_DATE.fullmatch(given):
            return given.decode("ascii"), parse_amz_date(given)
        moment = parsedate_to_datetime(given.decode("latin-1"))
        if moment.tzinfo is None:
            raise ValueError("no time zone")
        seconds = int(moment.timestamp())
        return format_amz_date(seconds), seconds
    except (ValueError, OverflowError):
        raise S3Error("AccessDenied", "AWS authentication requires a valid Date or x-amz-date header") from None


def format_amz_date(seconds: int) -> str:
    """YYYYMMDDTHHMMSSZ."""
    return strftime("%Y%m%dT%H%M%SZ", gmtime(seconds))


def _payload_of_headers(headers: Mapping[bytes, bytes]) -> str:
    given = headers.get(b"x-amz-content-sha256")
    if given is None:
        raise S3Error("InvalidRequest", "Missing required header for this request: x-amz-content-sha256")
    return _checked_payload(given.decode("latin-1"))


def _checked_payload(payload: str) -> str:
    if payload in PAYLOAD_KINDS or _SHA256_HEX.fullmatch(payload):
        return payload
    raise S3Error(
        "InvalidArgument",
        f"x-amz-content-sha256 must be {UNSIGNED}, {STREAMING_SIGNED}, {STREAMING_SIGNED_TRAILER}, "
        f"{STREAMING_UNSIGNED_TRAILER} or a valid sha256 value.",
        fields=(("ArgumentName", "x-amz-content-sha256"), ("ArgumentValue", payload)),
    )


def _claim_of_query(query: bytes, headers: Mapping[bytes, bytes]) -> Claim:
    values: dict[bytes, bytes] = {}
    for name, value in _decoded_pairs(query):
        if name in values and name in QUERY_PARAMETERS:
            raise _bad_query(f"{name.decode()} is given more than once")
        values[name] = value
    if any(not values.get(name) for name in QUERY_PARAMETERS):
        raise _bad_query(
            "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, "
            "X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters."
        )
    if values[b"X-Amz-Algorithm"] != ALGORITHM:
        raise _bad_query('X-Amz-Algorithm only supports "AWS4-HMAC-SHA256"')
    if not _SIGNATURE.fullmatch(values[b"X-Amz-Signature"]):
        raise _bad_query("X-Amz-Signature must be 64 lower-case hexadecimal digits")
    try:
        access_key, date, region = _split_credential(values[b"X-Amz-Credential"])
    except ValueError as error:
        raise _bad_query(f"Error parsing the X-Amz-Credential parameter; {error}") from None
    try:
        signed_s = parse_amz_date(values[b"X-Amz-Date"])
    except ValueError:
        raise _bad_query("X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"") from None
    amz_date = values[b"X-Amz-Date"].decode("ascii")
    if not amz_date.startswith(date):
        raise _bad_query(
            f'Invalid credential date "{date}". This date is not the same as X-Amz-Date: "{amz_date[:8]}".'
        )
    signed_headers = tuple(values[b"X-Amz-SignedHeaders"].split(b";"))
    payload = values.get(b"X-Amz-Content-Sha256")
    if b"x-amz-content-sha256" in signed_headers:
        payload = headers.get(b"x-amz-content-sha256", payload)
    return Claim(
        access_key, date, region, signed_headers, values[b"X-Amz-Signature"],
        amz_date, signed_s, UNSIGNED if payload is None else _checked_payload(payload.decode("latin-1")),
        _parse_expires(values[b"X-Amz-Expires"]),
    )  # fmt: skip


def _parse_expires(value: bytes) -> int:
    digits = value.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > 18:
        raise _bad_query("X-Amz-Expires should be a number")
    expires_s = int(value)
    if expires_s < 0:
        raise _bad_query("X-Amz-Expires must be non-negative")
    if not 1 <= expires_s <= EXPIRES_S_MAX:
        raise _bad_query(f"X-Amz-Expires must be between 1 and {EXPIRES_S_MAX} seconds")
    return expires_s


# --------------------------------------------------------------------------------------------------------- canonical form


def _decoded_pairs(query: bytes) -> list[tuple[bytes, bytes]]:
    """A query's names and values, decoded; `+` is a space."""
    pairs = []
    for part in query.split(b"&"):
        if part:
            name, _, value = part.partition(b"=")
            pairs.append((_decode_query(name), _decode_query(value)))
    return pairs


def _decode_query(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" ")) if b"%" in text or b"+" in text else text


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
        for name, value in _decoded_pairs(query)
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


# ------------------------------------------------------------------------------------------------------------ verification


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
                raise _bad_query(f"Error parsing the X-Amz-Credential parameter; {message}")
            raise _malformed(message, fields=(("Region", self._region),))
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
