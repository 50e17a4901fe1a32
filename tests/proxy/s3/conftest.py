"""What the tests of the S3 dialect share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.proxy.s3.client import S3World, s3_world


@pytest.fixture
async def world() -> AsyncIterator[S3World]:
    """An app on a small cluster, two users, and the bucket `bucket` of the first."""
    async with s3_world() as made:
        yield made
