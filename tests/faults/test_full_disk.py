"""A disk that fills up: writes are refused with the right status, nothing is half-written, reads and deletes go on."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import botocore.config
import botocore.exceptions
import pytest
import trio

from tests.faults.workload import token_of
from tests.support.cluster import TestCluster
from tests.support.http_client import HttpClient

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]
MIB = 1024 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 700 MiB in memory; skips where this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=700m", "ringstead-test", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_a_full_disk_refuses_and_loses_nothing(
    small_disk: Path, make_cluster: Callable[..., TestCluster]
) -> None:
    """Writes until the disk is full: 507 (503 over S3), the refused names absent, the others whole; deletes still work."""
    cluster = make_cluster("--devices-per-zone", "1", start=False)
    cluster.data = small_disk / "data"
    cluster.data.mkdir()
    logs = small_disk.parent / "logs"
    logs.mkdir()
    (cluster.data / "logs").symlink_to(logs)  # a full disk loses the lines that say so, if they are to lie on it
    await trio.to_thread.run_sync(cluster.start)
    try:
        token, account = await trio.to_thread.run_sync(token_of, cluster)
        client = HttpClient(cluster.port, {"X-Auth-Token": token})
        assert (await client.request("PUT", f"{account}/full"))[0] == 201
        stored: list[str] = []
        refused: dict[str, int] = {}
        for number in range(400):
            for size in (4096, 3 * MIB):
                name = f"{account}/full/{size}-{number}"
                status, _, _ = await client.request("PUT", name, bytes([number % 256]) * size)
                if status == 201:
                    stored.append(name)
                else:
                    refused[name] = status
            if len(refused) >= 8:
                break
        assert refused, "700 MiB took 400 x 3 x 3 MiB"
        assert set(refused.values()) == {507}, refused
        assert len(stored) > 50
        for name in refused:
            assert (await client.request("HEAD", name))[0] == 404
        for name in stored:
            size, number = name.rpartition("/")[2].split("-")
            status, _, content = await client.request("GET", name)
            assert (status, content) == (200, bytes([int(number) % 256]) * int(size))
        _, _, listing = await client.request("GET", f"{account}/full?limit=10000")
        assert sorted(listing.decode().split()) == sorted(name.rpartition("/")[2] for name in stored)
        await trio.to_thread.run_sync(check_s3_says_503, cluster)
        await trio.to_thread.run_sync(check_status_says_full, cluster)
        for name in stored:
            assert (await client.request("DELETE", name))[0] == 204
        await client.aclose()
    finally:
        await trio.to_thread.run_sync(cluster.stop)


def check_status_says_full(cluster: TestCluster) -> None:
    """Each device says that it is full, to people and to programs; it is no fence, and needs nobody to release it."""
    found = json.loads(cluster.ringstead("status", "--json").stdout)
    assert not found["healthy"]
    for device in found["devices"]:
        assert "are kept back" in device["full"]
        assert device["fenced"] == ""
    assert "z1d1 is full: it t" in cluster.ringstead("status").stdout
    assert "a device is full" in (cluster.data / "logs" / "storage-z1d1.log").read_text()


def check_s3_says_503(cluster: TestCluster) -> None:
    """The same through S3."""
    values = cluster.credentials
    s3 = boto3.client(
        "s3",
        endpoint_url=cluster.endpoint,
        aws_access_key_id=values["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=values["AWS_SECRET_ACCESS_KEY"],
        region_name=values["AWS_DEFAULT_REGION"],
        config=botocore.config.Config(retries={"max_attempts": 0}),
    )
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        s3.put_object(Bucket="full", Key="s3", Body=b"x" * 3 * MIB)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
