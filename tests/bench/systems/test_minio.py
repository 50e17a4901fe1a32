"""What MinIO says of itself is understood."""

from __future__ import annotations

from bench.systems.minio import version_in


def test_the_version_is_what_it_says() -> None:
    """The release's name, without the commit behind it."""
    said = "minio version RELEASE.2025-09-07T16-13-09Z (commit-id=07c3a429bfed)\nRuntime: go1.24.6 linux/amd64\n"
    assert version_in(said) == "RELEASE.2025-09-07T16-13-09Z"
