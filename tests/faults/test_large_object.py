"""An object larger than memory may be: up by multipart, down in one piece, with every process small.

512 MiB in the suite, more than any process may grow to; 5 GiB in `make long`.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

import boto3
import pytest
from boto3.s3.transfer import TransferConfig

from bench.systems.usage import tree_of

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

MIB = 1024 * 1024
RSS_BYTES_MAX = 300 * MIB
SIZE_BYTES = int(os.environ.get("RINGSTEAD_LARGE_OBJECT_MIB", "512")) * MIB
PART_BYTES = 64 * MIB


class _Pattern:
    """A file of any size that holds no bytes: each MiB is derived from its number."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.position = 0
        self.digest = hashlib.sha256()
        self._block = os.urandom(MIB - 8)

    def read(self, count: int = -1) -> bytes:
        count = self.size - self.position if count < 0 else min(count, self.size - self.position)
        pieces = []
        while count:
            number, offset = divmod(self.position, MIB)
            piece = (number.to_bytes(8, "big") + self._block)[offset : offset + count]
            pieces.append(piece)
            self.position += len(piece)
            count -= len(piece)
        data = b"".join(pieces)
        self.digest.update(data)
        return data


def rss_peaks(root: int) -> dict[int, int]:
    """The largest resident size so far of each process of a tree, in bytes."""
    peaks = {}
    for process in tree_of([root]):
        with open(f"/proc/{process}/status") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    peaks[process] = int(line.split()[1]) * 1024
    return peaks


def test_a_large_object_by_multipart(cluster: Any, bucket_name: str) -> None:
    """Gibibytes go up in parts and come back with the same digest; no process of the cluster exceeds 300 MiB resident."""
    values = cluster.credentials
    client = boto3.client(
        "s3",
        endpoint_url=cluster.endpoint,
        aws_access_key_id=values["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=values["AWS_SECRET_ACCESS_KEY"],
        region_name=values["AWS_DEFAULT_REGION"],
    )
    client.create_bucket(Bucket=bucket_name)
    source = _Pattern(SIZE_BYTES)
    transfer = TransferConfig(multipart_chunksize=PART_BYTES, max_concurrency=2, io_chunksize=MIB)
    client.upload_fileobj(source, bucket_name, "five", Config=transfer)
    head = client.head_object(Bucket=bucket_name, Key="five")
    assert head["ContentLength"] == SIZE_BYTES

    digest = hashlib.sha256()
    body = client.get_object(Bucket=bucket_name, Key="five")["Body"]
    for chunk in body.iter_chunks(4 * MIB):
        digest.update(chunk)
    assert digest.hexdigest() == source.digest.hexdigest()
    peaks = rss_peaks(cluster.supervisor.pid)
    assert peaks
    assert max(peaks.values()) < RSS_BYTES_MAX, peaks
    client.delete_object(Bucket=bucket_name, Key="five")
