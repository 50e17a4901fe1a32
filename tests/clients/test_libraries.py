"""Python clients: boto3, python-swiftclient and minio-py, alone and reading what another wrote."""

from __future__ import annotations

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import botocore.config
import botocore.exceptions
import pytest
import swiftclient
from minio import Minio
from minio.commonconfig import CopySource
from minio.deleteobjects import DeleteObject

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def s3_client(cluster: Any) -> Any:
    """boto3 as it comes: today's default checksums, signed streaming."""
    values = cluster.credentials
    return boto3.client(
        "s3",
        endpoint_url=cluster.endpoint,
        aws_access_key_id=values["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=values["AWS_SECRET_ACCESS_KEY"],
        region_name=values["AWS_DEFAULT_REGION"],
        config=botocore.config.Config(max_pool_connections=16),
    )


def swift_connection(cluster: Any) -> swiftclient.Connection:
    """python-swiftclient with v1 auth."""
    values = cluster.credentials
    return swiftclient.Connection(values["ST_AUTH"], values["ST_USER"], values["ST_KEY"], auth_version="1")


def files_of(tree: Path) -> list[tuple[Path, str]]:
    """Every file of a tree with its name below it."""
    return [(path, str(path.relative_to(tree))) for path in sorted(tree.rglob("*")) if path.is_file()]


def test_boto3_tree(cluster: Any, tree: Path, tree_digests: dict[str, str], bucket_name: str) -> None:
    """boto3 uploads the tree, pages through it, reads every byte back, and deletes it in batches."""
    client = s3_client(cluster)
    client.create_bucket(Bucket=bucket_name)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda pair: client.upload_file(str(pair[0]), bucket_name, pair[1]), files_of(tree)))
        pages = list(client.get_paginator("list_objects_v2").paginate(Bucket=bucket_name))
        listed = [item["Key"] for page in pages for item in page["Contents"]]
        assert listed == sorted(tree_digests, key=str.encode)

        def read(name: str) -> tuple[str, str]:
            body = client.get_object(Bucket=bucket_name, Key=name)["Body"].read()
            return name, hashlib.md5(body, usedforsecurity=False).hexdigest()

        assert dict(pool.map(read, listed)) == tree_digests
    for start in range(0, len(listed), 1000):
        batch = [{"Key": name} for name in listed[start : start + 1000]]
        answer = client.delete_objects(Bucket=bucket_name, Delete={"Objects": batch})
        assert len(answer["Deleted"]) == len(batch)
    client.delete_bucket(Bucket=bucket_name)
    with pytest.raises(botocore.exceptions.ClientError, match="404"):
        client.head_bucket(Bucket=bucket_name)


def test_boto3_overwrite_copy_and_delete(cluster: Any, bucket_name: str) -> None:
    """A later PUT is what is read and listed; a copy keeps or replaces metadata as told; a deleted key is gone."""
    client = s3_client(cluster)
    client.create_bucket(Bucket=bucket_name)
    client.put_object(Bucket=bucket_name, Key="a", Body=b"one", Metadata={"colour": "red"})
    client.put_object(Bucket=bucket_name, Key="a", Body=b"second", Metadata={"colour": "blue"})
    client.copy_object(Bucket=bucket_name, Key="b", CopySource={"Bucket": bucket_name, "Key": "a"})
    client.copy_object(
        Bucket=bucket_name,
        Key="c",
        CopySource={"Bucket": bucket_name, "Key": "a"},
        MetadataDirective="REPLACE",
        Metadata={"shape": "round"},
    )
    assert client.get_object(Bucket=bucket_name, Key="b")["Body"].read() == b"second"
    assert client.head_object(Bucket=bucket_name, Key="b")["Metadata"] == {"colour": "blue"}
    assert client.head_object(Bucket=bucket_name, Key="c")["Metadata"] == {"shape": "round"}
    sizes = {item["Key"]: item["Size"] for item in client.list_objects_v2(Bucket=bucket_name)["Contents"]}
    assert sizes == {"a": 6, "b": 6, "c": 6}
    client.delete_object(Bucket=bucket_name, Key="a")
    with pytest.raises(client.exceptions.NoSuchKey):
        client.get_object(Bucket=bucket_name, Key="a")


def test_boto3_multipart(cluster: Any, bucket_name: str) -> None:
    """boto3's own transfer manager sends 40 MiB in parts and reads them back, whole and by range."""
    client = s3_client(cluster)
    client.create_bucket(Bucket=bucket_name)
    data = b"".join(hashlib.sha256(bytes([i % 256, i // 256])).digest() * 1024 for i in range(1280))
    client.upload_fileobj(io.BytesIO(data), bucket_name, "large")
    head = client.head_object(Bucket=bucket_name, Key="large")
    assert head["ETag"].strip('"').endswith("-5")
    assert head["ContentLength"] == len(data)
    back = io.BytesIO()
    client.download_fileobj(bucket_name, "large", back)
    assert back.getvalue() == data
    part = client.get_object(Bucket=bucket_name, Key="large", Range="bytes=8388600-8388700")
    assert part["Body"].read() == data[8388600:8388701]


def test_swiftclient(cluster: Any, bucket_name: str) -> None:
    """Containers, objects, metadata, listings and totals through python-swiftclient."""
    connection = swift_connection(cluster)
    connection.put_container(bucket_name, headers={"X-Container-Meta-Colour": "green"})
    for name in ("a/1", "a/2", "b"):
        etag = connection.put_object(bucket_name, name, contents=name * 100, headers={"X-Object-Meta-Name": name})
        assert etag == hashlib.md5((name * 100).encode(), usedforsecurity=False).hexdigest()
    headers, listed = connection.get_container(bucket_name, delimiter="/")
    assert [item.get("name", item.get("subdir")) for item in listed] == ["a/", "b"]
    assert headers["x-container-meta-colour"] == "green"
    assert headers["x-container-object-count"] == "3"
    head, body = connection.get_object(bucket_name, "a/2")
    assert body == b"a/2" * 100
    assert head["x-object-meta-name"] == "a/2"
    connection.post_object(bucket_name, "b", {"X-Object-Meta-Shape": "square"})
    head = connection.head_object(bucket_name, "b")
    assert head["x-object-meta-shape"] == "square"
    assert "x-object-meta-name" not in head
    for name in ("a/1", "a/2", "b"):
        connection.delete_object(bucket_name, name)
    connection.delete_container(bucket_name)
    with pytest.raises(swiftclient.ClientException, match="404"):
        connection.head_container(bucket_name)


def test_minio_tree(cluster: Any, tree: Path, tree_digests: dict[str, str], bucket_name: str) -> None:
    """minio-py uploads the tree, lists it, reads it back, copies and removes it."""
    values = cluster.credentials
    client = Minio(
        cluster.endpoint.removeprefix("http://"),
        access_key=values["AWS_ACCESS_KEY_ID"],
        secret_key=values["AWS_SECRET_ACCESS_KEY"],
        secure=False,
        region=values["AWS_DEFAULT_REGION"],
    )
    client.make_bucket(bucket_name)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda pair: client.fput_object(bucket_name, pair[1], str(pair[0])), files_of(tree)))
        listed = [item.object_name for item in client.list_objects(bucket_name, recursive=True)]
        assert len(listed) == len(tree_digests)

        def read(name: str) -> tuple[str, str]:
            answer = client.get_object(bucket_name, name)
            try:
                return name, hashlib.md5(answer.data, usedforsecurity=False).hexdigest()
            finally:
                answer.close()
                answer.release_conn()

        assert dict(pool.map(read, [name for name in listed if name])) == tree_digests
    client.put_object(bucket_name, "copy/of", io.BytesIO(b"first"), 5)
    client.put_object(bucket_name, "copy/of", io.BytesIO(b"second"), 6)
    client.copy_object(bucket_name, "copy/to", CopySource(bucket_name, "copy/of"))
    assert client.get_object(bucket_name, "copy/to").data == b"second"
    every = [item.object_name for item in client.list_objects(bucket_name, recursive=True)]
    assert list(client.remove_objects(bucket_name, [DeleteObject(name) for name in every if name])) == []
    client.remove_bucket(bucket_name)


def test_one_store_two_dialects(cluster: Any, bucket_name: str) -> None:
    """What boto3 wrote swiftclient reads, metadata and multipart included, and the reverse."""
    s3, swift = s3_client(cluster), swift_connection(cluster)
    s3.create_bucket(Bucket=bucket_name)
    s3.put_object(
        Bucket=bucket_name, Key="from s3/ä", Body=b"hello", Metadata={"colour": "red"}, ContentType="text/x-s3"
    )
    head, body = swift.get_object(bucket_name, "from s3/ä")
    assert (body, head["x-object-meta-colour"], head["content-type"]) == (b"hello", "red", "text/x-s3")
    swift.put_object(
        bucket_name, "from swift", b"world", content_type="text/x-swift", headers={"X-Object-Meta-Size": "xl"}
    )
    answer = s3.get_object(Bucket=bucket_name, Key="from swift")
    assert (answer["Body"].read(), answer["Metadata"], answer["ContentType"]) == (
        b"world",
        {"size": "xl"},
        "text/x-swift",
    )
    s3.upload_fileobj(io.BytesIO(b"0123456789abcdef" * 1024 * 1024), bucket_name, "large")
    _, body = swift.get_object(bucket_name, "large")
    assert body == b"0123456789abcdef" * 1024 * 1024
    assert [item["Key"] for item in s3.list_objects_v2(Bucket=bucket_name)["Contents"]] == [
        item["name"] for item in swift.get_container(bucket_name)[1]
    ]
    swift.put_container(bucket_name + "-sw")
    s3.put_object(Bucket=bucket_name + "-sw", Key="x", Body=b"y")
    assert swift.get_object(bucket_name + "-sw", "x")[1] == b"y"
