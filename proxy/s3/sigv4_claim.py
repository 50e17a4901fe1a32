"""What a request claims of its own version 4 signature: read from the Authorization header or a presigned query. Pure.

Idea: reading needs no secret, so it comes first, and says of each way of getting it wrong what is wrong, with the error
that AWS gives. Nothing here is proof of anything: that is `sigv4.Verifier`'s work.

Source: "Authenticating Requests (AWS Signature Version 4)" in the Amazon S3 API Reference.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from time import gmtime, strftime
from typing import Final
from urllib.parse import unquote_to_bytes

from proxy.s3.errors import S3Error

ALGORITHM: Final = b"AWS4-HMAC-SHA256"
EXPIRES_S_MAX: Final = 7 * 24 * 3600
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


def malformed(message: str, fields: tuple[tuple[str, str], ...] = ()) -> S3Error:
    """For an Authorization header that is wrong in itself."""
    return S3Error("AuthorizationHeaderMalformed", f"The authorization header is malformed; {message}", fields=fields)


def bad_query(message: str) -> S3Error:
    """For a presigned query that is wrong in itself."""
    return S3Error("AuthorizationQueryParametersError", message)


def _claim_of_header(authorization: bytes, headers: Mapping[bytes, bytes]) -> Claim:
    fixed, separator, signature = authorization.rpartition(b"Signature=")
    if not separator or not _SIGNATURE.fullmatch(signature):
        # The rare order, or an error: all three parts as one would read them.
        fixed, signature = _reordered(authorization)
    access_key, date, region, signed_headers = _parse_fixed(fixed)
    amz_date, signed_s = _time_of_headers(headers)
    if not amz_date.startswith(date):
        raise malformed(f'Invalid credential date "{date}". This date is not the same as X-Amz-Date: "{amz_date[:8]}".')
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
        raise malformed("Signature is missing." if not signatures else "there is more than one Signature.")
    if algorithm == ALGORITHM and not _SIGNATURE.fullmatch(signatures[0]):
        raise malformed("the Signature must be 64 lower-case hexadecimal digits.")
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
            raise malformed("it must be Credential, SignedHeaders and Signature, separated by commas.")
        parts[name] = value
    for name in (b"Credential", b"SignedHeaders"):
        if not parts.get(name):
            raise malformed(f"{name.decode()} is missing.")
    if len(parts) != 2:
        raise malformed("it must be Credential, SignedHeaders and Signature, and nothing else.")
    try:
        access_key, date, region = _split_credential(parts[b"Credential"])
    except ValueError as error:
        raise malformed(str(error)) from None
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
            if not given.endswith(b"-0000"):  # UTC too (RFC 5322, 3.3), and what boto3 writes
                raise ValueError("no time zone")
            moment = moment.replace(tzinfo=UTC)
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
    for name, value in decoded_pairs(query):
        if name in values and name in QUERY_PARAMETERS:
            raise bad_query(f"{name.decode()} is given more than once")
        values[name] = value
    if any(not values.get(name) for name in QUERY_PARAMETERS):
        raise bad_query(
            "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, "
            "X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters."
        )
    if values[b"X-Amz-Algorithm"] != ALGORITHM:
        raise bad_query('X-Amz-Algorithm only supports "AWS4-HMAC-SHA256"')
    if not _SIGNATURE.fullmatch(values[b"X-Amz-Signature"]):
        raise bad_query("X-Amz-Signature must be 64 lower-case hexadecimal digits")
    try:
        access_key, date, region = _split_credential(values[b"X-Amz-Credential"])
    except ValueError as error:
        raise bad_query(f"Error parsing the X-Amz-Credential parameter; {error}") from None
    try:
        signed_s = parse_amz_date(values[b"X-Amz-Date"])
    except ValueError:
        raise bad_query("X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"") from None
    amz_date = values[b"X-Amz-Date"].decode("ascii")
    if not amz_date.startswith(date):
        raise bad_query(f'Invalid credential date "{date}". This date is not the same as X-Amz-Date: "{amz_date[:8]}".')
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
        raise bad_query("X-Amz-Expires should be a number")
    expires_s = int(value)
    if expires_s < 0:
        raise bad_query("X-Amz-Expires must be non-negative")
    if not 1 <= expires_s <= EXPIRES_S_MAX:
        raise bad_query(f"X-Amz-Expires must be between 1 and {EXPIRES_S_MAX} seconds")
    return expires_s


def decoded_pairs(query: bytes) -> list[tuple[bytes, bytes]]:
    """A query's names and values, decoded; `+` is a space."""
    pairs = []
    for part in query.split(b"&"):
        if part:
            name, _, value = part.partition(b"=")
            pairs.append((_decode_query(name), _decode_query(value)))
    return pairs


def _decode_query(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" ")) if b"%" in text or b"+" in text else text
