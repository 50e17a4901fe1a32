"""Listings of a bucket: what a client asks for, and the document that answers it.

Problem: ListObjects, ListObjectsV2 and ListObjectVersions are one query with three spellings of "where to go on", and the
document of 1,000 keys is the largest thing that the dialect writes.

Idea: each spelling is parsed into one `ListRequest` (a `ListQuery` and what must be echoed), and each document is rendered
from it and an `ObjectListing` by string formatting, one format a key (object_rows). A v2 continuation token is the
store's next marker in base64: it needs no secret, because it can say nothing that start-after could not.

Source: API_ListObjects, API_ListObjectsV2 and API_ListObjectVersions of the Amazon S3 API Reference.

Invariants:
- Pure: parameters and listing in, bytes out.
- What was asked for with encoding-type=url is percent-encoded wherever a name stands (but for the prefix in version 1);
  otherwise names are escaped XML.
- A page that is truncated always says where to go on.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote_from_bytes

from proxy.model import ListedObject, ListedPrefix, ListQuery, ObjectListing
from proxy.object_page import ObjectPage
from proxy.s3.errors import invalid_argument
from proxy.s3.object_rows import CONTENTS, VERSION, elements
from proxy.s3.settings import LIST_KEYS_MAX
from proxy.s3.xml import element, escape, long_document

_INT_DIGITS_MAX = 10
_INT_MAX = 2**31 - 1
_TOKEN_VERSION = "1"


@dataclass(frozen=True, slots=True)
class ListRequest:
    """A listing as a client asked for it."""

    query: ListQuery
    url: bool
    """encoding-type=url: names are percent-encoded in the answer."""
    max_keys: int
    marker: bytes
    """marker, start-after or key-marker, to be echoed."""
    token: str | None = None
    """continuation-token, to be echoed."""
    start_after_given: bool = False
    fetch_owner: bool = True
    version_id_marker: str = ""

    def name(self, name: bytes) -> str:
        """A name as the answer has it."""
        return quote_from_bytes(name, safe="/") if self.url else escape(name.decode())


def text_parameter(parameters: Mapping[str, str], name: str) -> bytes:
    """A name in the query, as UTF-8; b"" where it is absent. Raises InvalidArgument for what is no UTF-8."""
    value = parameters.get(name)
    if not value:
        return b""
    try:
        raw = value.encode()
    except UnicodeEncodeError:
        raise invalid_argument(name, value.encode("utf-8", "replace").decode(), "Not valid UTF-8.") from None
    if b"\x00" in raw:
        raise invalid_argument(name, value.replace("\x00", "%00"), "NUL is not allowed.")
    return raw


def count_parameter(parameters: Mapping[str, str], name: str, default: int = LIST_KEYS_MAX) -> int:
    """A page's length in the query, clamped to `default`. Raises InvalidArgument."""
    value = parameters.get(name)
    if not value:
        return default
    if not value.isdecimal() or not value.isascii():
        text = value.encode("utf-8", "replace").decode()
        if value[0] == "-" and value[1:].isdecimal():
            raise invalid_argument(name, text, f"Argument {name} must be an integer between 0 and {_INT_MAX}")
        raise invalid_argument(name, text, f"Provided {name} not an integer or within integer range")
    if len(value) > _INT_DIGITS_MAX or int(value) > _INT_MAX:
        raise invalid_argument(name, value, f"Argument {name} must be an integer between 0 and {_INT_MAX}")
    return min(int(value), default)


def url_encoding(parameters: Mapping[str, str]) -> bool:
    """Whether names are to be percent-encoded. Raises InvalidArgument for an encoding that S3 has not."""
    value = parameters.get("encoding-type")
    if not value:
        return False
    if value != "url":
        raise invalid_argument("encoding-type", value, "Invalid Encoding Method specified in Request")
    return True


def _request(parameters: Mapping[str, str], marker: bytes, after: bytes, **more: object) -> ListRequest:
    max_keys = count_parameter(parameters, "max-keys")
    query = ListQuery(
        prefix=text_parameter(parameters, "prefix"),
        delimiter=text_parameter(parameters, "delimiter"),
        marker=after,
        limit=max_keys,
    )
    return ListRequest(query, url_encoding(parameters), max_keys, marker, **more)  # type: ignore[arg-type]


def parse_list_v1(parameters: Mapping[str, str]) -> ListRequest:
    """ListObjects. Raises InvalidArgument."""
    marker = text_parameter(parameters, "marker")
    return _request(parameters, marker, marker)


def parse_list_v2(parameters: Mapping[str, str]) -> ListRequest:
    """ListObjectsV2: a continuation token wins over start-after. Raises InvalidArgument."""
    start_after = text_parameter(parameters, "start-after")
    token = parameters.get("continuation-token")
    return _request(
        parameters,
        start_after,
        decode_token(token) if token else start_after,
        token=token,
        start_after_given="start-after" in parameters,
        fetch_owner=parameters.get("fetch-owner", "").lower() == "true",
    )


def parse_list_versions(parameters: Mapping[str, str]) -> ListRequest:
    """ListObjectVersions: every object has one version, called null. Raises InvalidArgument."""
    marker = text_parameter(parameters, "key-marker")
    version_id_marker = parameters.get("version-id-marker", "")
    if version_id_marker and not marker:
        raise invalid_argument(
            "version-id-marker", version_id_marker, "A version-id marker cannot be specified without a key marker."
        )
    return _request(parameters, marker, marker, version_id_marker=version_id_marker)


def encode_token(marker: bytes) -> str:
    """A continuation token that goes on behind `marker`."""
    return _TOKEN_VERSION + base64.urlsafe_b64encode(marker).decode().rstrip("=")


def decode_token(token: str) -> bytes:
    """The marker in a continuation token. Raises InvalidArgument for one that was not made here."""
    try:
        if token[0] != _TOKEN_VERSION:
            raise ValueError(token)
        raw = token[1:].encode("ascii")
        marker = base64.b64decode(raw + b"=" * (-len(raw) % 4), altchars=b"-_", validate=True)
        marker.decode()
    except (ValueError, binascii.Error):
        text = token.encode("utf-8", "replace").decode()
        raise invalid_argument("continuation-token", text, "The continuation token provided is incorrect") from None
    return marker


def owner_element(owner_id: str, display_name: str, name: str = "Owner") -> str:
    """An Owner (or Initiator)."""
    return f"<{name}><ID>{owner_id}</ID>{element('DisplayName', display_name)}</{name}>"


def _head(bucket: bytes, request: ListRequest, prefix: str) -> list[str]:
    """What the three documents begin with."""
    query = request.query
    parts = [f"<Name>{escape(bucket.decode())}</Name><Prefix>{prefix}</Prefix>"]
    if query.delimiter:
        parts.append(f"<Delimiter>{request.name(query.delimiter)}</Delimiter>")
    if request.url:
        parts.append("<EncodingType>url</EncodingType>")
    parts.append(f"<MaxKeys>{request.max_keys}</MaxKeys>")
    return parts


def _objects(listing: ObjectListing, request: ListRequest, form: str, owner: str) -> list[bytes]:
    return elements(listing.items, form, owner, request.name, url=request.url)


def _prefixes(listing: ObjectListing, request: ListRequest) -> str:
    if isinstance(listing.items, ObjectPage):
        return ""
    return "".join(
        [
            f"<CommonPrefixes><Prefix>{request.name(item.prefix)}</Prefix></CommonPrefixes>"
            for item in listing.items
            if isinstance(item, ListedPrefix)
        ]
    )


def render_list_v1(bucket: bytes, request: ListRequest, listing: ObjectListing, owner: str) -> bytes:
    """The answer of ListObjects."""
    # Of all names in this document clients do not decode the prefix (botocore says so in its own handlers).
    parts = _head(bucket, request, escape(request.query.prefix.decode()))
    parts.append(f"<Marker>{request.name(request.marker)}</Marker>")
    parts.append(f"<IsTruncated>{'true' if listing.truncated else 'false'}</IsTruncated>")
    if listing.truncated and request.query.delimiter:
        parts.append(f"<NextMarker>{request.name(listing.next_marker)}</NextMarker>")
    objects = _objects(listing, request, CONTENTS, owner)
    return long_document("ListBucketResult", "".join(parts), objects, _prefixes(listing, request))


def render_list_v2(bucket: bytes, request: ListRequest, listing: ObjectListing, owner: str) -> bytes:
    """The answer of ListObjectsV2."""
    parts = _head(bucket, request, request.name(request.query.prefix))
    parts.append(f"<KeyCount>{len(listing.items)}</KeyCount>")
    parts.append(f"<IsTruncated>{'true' if listing.truncated else 'false'}</IsTruncated>")
    if request.token is not None:
        parts.append(element("ContinuationToken", request.token))
    if listing.truncated:
        parts.append(element("NextContinuationToken", encode_token(listing.next_marker)))
    if request.start_after_given:
        parts.append(f"<StartAfter>{request.name(request.marker)}</StartAfter>")
    objects = _objects(listing, request, CONTENTS, owner if request.fetch_owner else "")
    return long_document("ListBucketResult", "".join(parts), objects, _prefixes(listing, request))


def render_list_versions(bucket: bytes, request: ListRequest, listing: ObjectListing, owner: str) -> bytes:
    """The answer of ListObjectVersions."""
    parts = _head(bucket, request, request.name(request.query.prefix))
    parts.append(f"<KeyMarker>{request.name(request.marker)}</KeyMarker>")
    parts.append(element("VersionIdMarker", request.version_id_marker))
    parts.append(f"<IsTruncated>{'true' if listing.truncated else 'false'}</IsTruncated>")
    if listing.truncated:
        parts.append(f"<NextKeyMarker>{request.name(listing.next_marker)}</NextKeyMarker>")
        if isinstance(listing.items[-1], ListedObject):
            parts.append("<NextVersionIdMarker>null</NextVersionIdMarker>")
    objects = _objects(listing, request, VERSION, owner)
    return long_document("ListVersionsResult", "".join(parts), objects, _prefixes(listing, request))
