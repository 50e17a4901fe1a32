"""What an operator may set of the Swift dialect, and what /info says of it.

Problem: Swift clients ask /info what a cluster can do and how long things may be, and believe it. A limit that is announced
but not enforced, or a feature that is announced but absent, breaks a client where nobody looks.

Idea: the numbers that are enforced and the numbers that are announced are the same fields of one frozen class; a feature's
entry stands in `info_document` next to the limits that its code reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from proxy.dynamic import SEGMENTS_MAX
from proxy.model import CONTAINER_NAME_BYTES_MAX, LIST_LIMIT_MAX, OBJECT_NAME_BYTES_MAX, OBJECT_SIZE_BYTES_MAX

SIGNATURE_DIGESTS = ("sha1", "sha256", "sha512")
TEMPURL_METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE")


@dataclass(frozen=True, slots=True)
class SwiftSettings:
    """Settings of the Swift dialect. The defaults are Swift's own, so that clients meet what they know."""

    file_size_bytes_max: int = OBJECT_SIZE_BYTES_MAX
    """Of one upload; longer objects are made of segments."""
    meta_count_max: int = 90
    """Metadata items of one account, container or object."""
    meta_name_bytes_max: int = 128
    """Without the header's prefix."""
    meta_value_bytes_max: int = 256
    meta_overall_bytes_max: int = 4096
    """Names and values of all items together."""
    header_bytes_max: int = 16 * 1024
    """One header line. The HTTP server enforces it: give both the same."""
    extra_header_count: int = 74
    """Headers beside the metadata and Swift's usual 36 that the HTTP server takes; it enforces the sum, 200."""
    listing_limit: int = LIST_LIMIT_MAX
    container_name_bytes_max: int = CONTAINER_NAME_BYTES_MAX
    object_name_bytes_max: int = OBJECT_NAME_BYTES_MAX
    slo_segment_count_max: int = 1000
    slo_manifest_bytes_max: int = 8 * 1024**2
    slo_concurrency: int = 8
    """Segments of one new manifest that are looked up at once."""
    bulk_delete_count_max: int = 10_000
    bulk_delete_failure_count_max: int = 1_000
    """After so many that could not be deleted a bulk delete ends."""
    bulk_delete_concurrency: int = 8
    storage_url_scheme: str = ""
    """What X-Storage-Url begins with; "https" where TLS ends before the proxy. Empty: as the client came."""
    tempurl: bool = True

    def __post_init__(self) -> None:
        """Refuse what no request could meet."""
        if self.storage_url_scheme not in ("", "http", "https"):
            raise ValueError(f"storage_url_scheme {self.storage_url_scheme!r}: give http, https or nothing")
        if min(self.slo_concurrency, self.bulk_delete_concurrency, self.listing_limit) < 1:
            raise ValueError("concurrency and listing_limit must be at least 1")
        if not 0 < self.file_size_bytes_max <= OBJECT_SIZE_BYTES_MAX:
            raise ValueError(f"file_size_bytes_max must be within 1..{OBJECT_SIZE_BYTES_MAX}")
        if self.object_name_bytes_max > OBJECT_NAME_BYTES_MAX or self.listing_limit > LIST_LIMIT_MAX:
            raise ValueError("names and listings can't be longer than the object model has them")


def info_document(settings: SwiftSettings, version: str) -> dict[str, Any]:
    """What GET /info answers: what there is, and nothing that there is not."""
    document: dict[str, Any] = {
        "swift": {
            "version": version,
            "max_file_size": settings.file_size_bytes_max,
            "max_meta_count": settings.meta_count_max,
            "max_meta_name_length": settings.meta_name_bytes_max,
            "max_meta_value_length": settings.meta_value_bytes_max,
            "max_meta_overall_size": settings.meta_overall_bytes_max,
            "max_header_size": settings.header_bytes_max,
            "extra_header_count": settings.extra_header_count,
            "account_listing_limit": settings.listing_limit,
            "container_listing_limit": settings.listing_limit,
            "max_account_name_length": 256,
            "max_container_name_length": settings.container_name_bytes_max,
            "max_object_name_length": settings.object_name_bytes_max,
            "account_autocreate": True,
            "allow_account_management": True,
            "strict_cors_mode": True,
            "policies": [{"name": "default", "aliases": "default", "default": True}],
        },
        "ringstead": {"version": version},
        "tempauth": {"account_acls": False},
        "container_acl": {},
        "slo": {
            "max_manifest_segments": settings.slo_segment_count_max,
            "max_manifest_size": settings.slo_manifest_bytes_max,
            "min_segment_size": 1,
        },
        "dlo": {"max_segments": SEGMENTS_MAX},
        "bulk_delete": {
            "max_deletes_per_request": settings.bulk_delete_count_max,
            "max_failed_deletes": settings.bulk_delete_failure_count_max,
        },
    }
    if settings.tempurl:
        document["tempurl"] = {"methods": list(TEMPURL_METHODS), "allowed_digests": list(SIGNATURE_DIGESTS)}
    return document
