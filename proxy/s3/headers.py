"""Headers of an object: from a request into the model's metadata, and back into an answer.

Problem: every PUT walks its headers and every GET writes them, so this is on the hot path; clients send header values in
UTF-8, in Latin-1 and in anything else; and headers that ask for what this store does not do must not be ignored, or the
client believes that its data is encrypted.

Idea: one walk over the headers. Names outside x-amz- are looked up in a small table; inside, x-amz-meta- is the common
case and the rest a second table of those that carry meaning, each with a function that checks and keeps it.

Values are decoded as UTF-8 with `surrogateescape`, as the store encodes them: what is no UTF-8 survives as it came.

Invariants:
- Bytes in are bytes out, for user metadata and for the standard headers.
- A header of AWS's that changes what happens to the data is honoured or refused, never overlooked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from proxy.http.message import HeaderList
from proxy.model import Metadata, ObjectInfo
from proxy.s3.dates import http_date
from proxy.s3.errors import S3Error, invalid_argument, not_implemented
from proxy.s3.settings import USER_METADATA_BYTES_MAX
from proxy.s3.tags import pack_tags, parse_tag_header, unpack_tags

DEFAULT_CONTENT_TYPE = "binary/octet-stream"
TAGGING = "sys:tagging"
REDIRECT = "sys:website-redirect-location"

_STANDARD: dict[bytes, str] = {
    b"cache-control": "cache-control",
    b"content-disposition": "content-disposition",
    b"content-encoding": "content-encoding",
    b"content-language": "content-language",
    b"expires": "expires",
}
_STANDARD_OUT: dict[str, bytes] = {name: header for header, name in _STANDARD.items()}

OVERRIDES: tuple[tuple[str, bytes], ...] = (
    ("response-cache-control", b"cache-control"),
    ("response-content-disposition", b"content-disposition"),
    ("response-content-encoding", b"content-encoding"),
    ("response-content-language", b"content-language"),
    ("response-content-type", b"content-type"),
    ("response-expires", b"expires"),
)
"""Query parameters that replace a header of the answer."""

_CANNED_PRIVATE = frozenset(("private", "bucket-owner-full-control", "bucket-owner-read", "aws-exec-read"))
_CANNED_OTHER = frozenset(("public-read", "public-read-write", "authenticated-read", "log-delivery-write"))


def decode_value(value: bytes) -> str:
    """A header's value as text; bytes that are no UTF-8 as surrogates."""
    return value.decode("utf-8", "surrogateescape")


def check_acl(value: bytes) -> None:
    """Accept the canned ACLs that mean "the owner alone"; refuse the others."""
    name = value.decode("latin-1")
    if name in _CANNED_PRIVATE:
        return
    if name in _CANNED_OTHER:
        raise not_implemented("x-amz-acl", f"The canned ACL {name} is not implemented; every object is private.")
    raise invalid_argument("x-amz-acl", name)


def _check_acl(value: bytes, _: dict[str, str]) -> None:
    check_acl(value)


def _check_storage_class(value: bytes, _: dict[str, str]) -> None:
    if value != b"STANDARD":
        raise S3Error("InvalidStorageClass", fields=(("StorageClassRequested", value.decode("latin-1")),))


def _keep_redirect(value: bytes, metadata: dict[str, str]) -> None:
    text = decode_value(value)
    if not text.startswith(("/", "http://", "https://")) or len(value) > USER_METADATA_BYTES_MAX:
        raise invalid_argument("x-amz-website-redirect-location", text)
    metadata[REDIRECT] = text


def _keep_tagging(value: bytes, metadata: dict[str, str]) -> None:
    tags = parse_tag_header(value.decode("latin-1"))
    if tags:
        metadata[TAGGING] = pack_tags(tags)


def _refuse(name: str) -> Callable[[bytes, dict[str, str]], None]:
    def refuse(_: bytes, __: dict[str, str]) -> None:
        raise not_implemented(name)

    return refuse


_AMZ: dict[bytes, Callable[[bytes, dict[str, str]], None]] = {
    b"x-amz-acl": _check_acl,
    b"x-amz-storage-class": _check_storage_class,
    b"x-amz-tagging": _keep_tagging,
    b"x-amz-website-redirect-location": _keep_redirect,
} | {
    name.encode(): _refuse(name)
    for name in (
        "x-amz-grant-full-control",
        "x-amz-grant-read",
        "x-amz-grant-read-acp",
        "x-amz-grant-write",
        "x-amz-grant-write-acp",
        "x-amz-object-lock-legal-hold",
        "x-amz-object-lock-mode",
        "x-amz-object-lock-retain-until-date",
        "x-amz-server-side-encryption",
        "x-amz-server-side-encryption-aws-kms-key-id",
        "x-amz-server-side-encryption-context",
        "x-amz-server-side-encryption-customer-algorithm",
        "x-amz-server-side-encryption-customer-key",
        "x-amz-server-side-encryption-customer-key-md5",
        "x-amz-write-offset-bytes",
    )
}


def object_metadata(headers: Mapping[bytes, bytes]) -> tuple[str, dict[str, str]]:
    """Content type and metadata of an object whose PUT (or CreateMultipartUpload, or REPLACE copy) has these headers."""
    metadata: dict[str, str] = {}
    user_bytes = 0
    for header, value in headers.items():
        if header[:6] == b"x-amz-":
            if header[:11] == b"x-amz-meta-":
                user_bytes += len(header) - 11 + len(value)
                name = "meta:" + header[11:].decode("latin-1")
            else:
                handle = _AMZ.get(header)
                if handle is not None:
                    handle(value, metadata)
                continue
        else:
            standard = _STANDARD.get(header)
            if standard is None:
                continue
            if standard == "content-encoding" and not (value := _without_aws_chunked(value)):
                continue
            name = standard
        metadata[name] = value.decode("utf-8", "surrogateescape")
    if user_bytes > USER_METADATA_BYTES_MAX:
        raise S3Error(
            "MetadataTooLarge",
            fields=(("Size", str(user_bytes)), ("MaxSizeAllowed", str(USER_METADATA_BYTES_MAX))),
        )
    content_type = headers.get(b"content-type")
    return (decode_value(content_type) if content_type else DEFAULT_CONTENT_TYPE), metadata


def _without_aws_chunked(value: bytes) -> bytes:
    """Content-Encoding without the framing of the upload, which is not part of the object."""
    if b"aws-chunked" not in value.lower():
        return value
    kept = [token.strip() for token in value.split(b",") if token.strip().lower() != b"aws-chunked"]
    return b", ".join(kept)


def object_headers(info: ObjectInfo, with_checksums: bool) -> HeaderList:
    """The headers of a GET or HEAD of this object, without its length."""
    headers: HeaderList = [
        (b"etag", b'"' + info.etag.encode() + b'"'),
        (b"last-modified", http_date(info.modified_us)),
        (b"accept-ranges", b"bytes"),
        (b"content-type", info.content_type.encode("utf-8", "surrogateescape")),
    ]
    if info.metadata:
        _append_metadata(headers, info.metadata, with_checksums)
    return headers


def _append_metadata(headers: HeaderList, metadata: Metadata, with_checksums: bool) -> None:
    for name, value in metadata.items():
        if name[:5] == "meta:":
            header = b"x-amz-meta-" + name[5:].encode("utf-8")
        elif name[:9] == "checksum:":
            if not with_checksums:
                continue
            header = b"x-amz-checksum-" + name[9:].encode()
        elif (standard := _STANDARD_OUT.get(name)) is not None:
            header = standard
        elif name == REDIRECT:
            header = b"x-amz-website-redirect-location"
        elif name == TAGGING:
            headers.append((b"x-amz-tagging-count", b"%d" % len(unpack_tags(value))))
            continue
        else:
            continue
        headers.append((header, value.encode("utf-8", "surrogateescape")))


def override_headers(headers: HeaderList, parameters: Mapping[str, str]) -> HeaderList:
    """The headers with those replaced that the query asks for by response-…"""
    for parameter, header in OVERRIDES:
        value = parameters.get(parameter)
        if value is not None:
            if not value.isprintable():
                raise invalid_argument(parameter, value)
            headers = [pair for pair in headers if pair[0] != header]
            headers.append((header, value.encode()))
    return headers
