"""Settings and /info."""

from __future__ import annotations

import pytest

from proxy.model import OBJECT_SIZE_BYTES_MAX
from proxy.swift.settings import SwiftSettings, info_document


def test_what_is_announced_is_what_is_enforced() -> None:
    """Each limit of /info is the field that the code reads."""
    settings = SwiftSettings(
        meta_count_max=7, slo_segment_count_max=9, bulk_delete_count_max=11, listing_limit=13, tempurl=False
    )
    document = info_document(settings, "1.2")
    assert document["swift"]["max_meta_count"] == 7
    assert document["swift"]["container_listing_limit"] == 13
    assert document["slo"]["max_manifest_segments"] == 9
    assert document["bulk_delete"]["max_deletes_per_request"] == 11
    assert document["swift"]["version"] == "1.2"
    assert "tempurl" not in document
    assert "tempurl" in info_document(SwiftSettings(), "1")


@pytest.mark.parametrize(
    "wrong",
    [
        {"storage_url_scheme": "ftp"},
        {"slo_concurrency": 0},
        {"file_size_bytes_max": OBJECT_SIZE_BYTES_MAX + 1},
        {"object_name_bytes_max": 2000},
    ],
)
def test_settings_that_cannot_be(wrong: dict[str, object]) -> None:
    """They are refused when they are made, not when a request meets them."""
    with pytest.raises(ValueError, match=r"."):
        SwiftSettings(**wrong)  # type: ignore[arg-type]
