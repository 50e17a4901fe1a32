"""Command-line clients: each takes a real tree up, lists it, brings it back, overwrites, copies and deletes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.clients.conftest import digest_tree, program

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]
Run = Callable[..., str]


def test_awscli(run: Run, tree: Path, tree_digests: dict[str, str], bucket_name: str, tmp_path: Path) -> None:
    """The AWS command line syncs the tree both ways without a difference."""
    aws = program("aws")
    bucket = f"s3://{bucket_name}"
    run(aws, "s3", "mb", bucket)
    run(aws, "s3", "sync", "--quiet", str(tree), f"{bucket}/tree")
    listed = run(aws, "s3", "ls", "--recursive", f"{bucket}/tree/").splitlines()
    assert len(listed) == len(tree_digests)
    run(aws, "s3", "sync", "--quiet", f"{bucket}/tree", str(tmp_path / "back"))
    assert digest_tree(tmp_path / "back") == tree_digests

    (tmp_path / "one").write_text("first")
    run(aws, "s3", "cp", str(tmp_path / "one"), f"{bucket}/one")
    (tmp_path / "one").write_text("second, longer")
    run(aws, "s3", "cp", str(tmp_path / "one"), f"{bucket}/one")
    run(aws, "s3", "cp", f"{bucket}/one", f"{bucket}/a copy")
    assert run(aws, "s3", "cp", f"{bucket}/a copy", "-") == "second, longer"
    run(aws, "s3", "rb", "--force", bucket)
    assert bucket_name not in run(aws, "s3", "ls")


def test_s3cmd(
    run: Run,
    cluster,
    tree: Path,
    tree_digests: dict[str, str],
    bucket_name: str,
    tmp_path: Path,  # type: ignore[no-untyped-def]
) -> None:
    """s3cmd puts the tree, gets it back and removes it."""
    s3cmd = (sys.executable, program("s3cmd"))
    host = urlsplit(cluster.endpoint).netloc
    common = (
        f"--access_key={cluster.credentials['AWS_ACCESS_KEY_ID']}",
        f"--secret_key={cluster.credentials['AWS_SECRET_ACCESS_KEY']}",
        f"--host={host}",
        f"--host-bucket={host}",
        "--no-ssl",
        "--no-progress",
    )
    bucket = f"s3://{bucket_name}"
    run(*s3cmd, *common, "mb", bucket)
    run(*s3cmd, *common, "sync", "--no-check-md5", f"{tree}/", f"{bucket}/tree/")
    listed = run(*s3cmd, *common, "ls", "--recursive", f"{bucket}/tree/").splitlines()
    assert len(listed) == len(tree_digests)
    (tmp_path / "back").mkdir()
    run(*s3cmd, *common, "sync", "--no-check-md5", f"{bucket}/tree/", f"{tmp_path / 'back'}/")
    assert digest_tree(tmp_path / "back") == tree_digests

    (tmp_path / "one").write_text("first")
    run(*s3cmd, *common, "put", str(tmp_path / "one"), f"{bucket}/one")
    (tmp_path / "one").write_text("second")
    run(*s3cmd, *common, "put", str(tmp_path / "one"), f"{bucket}/one")
    run(*s3cmd, *common, "cp", f"{bucket}/one", f"{bucket}/two")
    run(*s3cmd, *common, "get", f"{bucket}/two", str(tmp_path / "two"))
    assert (tmp_path / "two").read_text() == "second"
    run(*s3cmd, *common, "del", "--recursive", "--force", bucket)
    run(*s3cmd, *common, "rb", bucket)


@pytest.mark.parametrize("dialect", ["s3", "swift"])
def test_rclone(
    run: Run,
    cluster,  # type: ignore[no-untyped-def]
    tree: Path,
    tree_digests: dict[str, str],
    bucket_name: str,
    tmp_path: Path,
    dialect: str,
) -> None:
    """rclone copies the tree up and down, and its own check finds no difference, over either dialect."""
    rclone = program("rclone")
    values = cluster.credentials
    if dialect == "s3":
        remote = (
            f":s3,provider=Other,access_key_id={values['AWS_ACCESS_KEY_ID']},"
            f"secret_access_key={values['AWS_SECRET_ACCESS_KEY']},endpoint='{cluster.endpoint}',region=us-east-1:"
        )
    else:
        remote = f":swift,user='{values['ST_USER']}',key='{values['ST_KEY']}',auth='{values['ST_AUTH']}':"
    place = f"{remote}{bucket_name}"
    quiet = ("--config", str(tmp_path / "none"), "--transfers", "8", "--checkers", "16", "--retries", "1")
    run(rclone, *quiet, "mkdir", place)
    run(rclone, *quiet, "copy", str(tree), f"{place}/tree")
    assert len(run(rclone, *quiet, "lsf", "-R", "--files-only", f"{place}/tree").splitlines()) == len(tree_digests)
    run(rclone, *quiet, "check", str(tree), f"{place}/tree")
    run(rclone, *quiet, "copy", f"{place}/tree", str(tmp_path / "back"))
    assert digest_tree(tmp_path / "back") == tree_digests

    (tmp_path / "one").write_text("first")
    run(rclone, *quiet, "copyto", str(tmp_path / "one"), f"{place}/one")
    (tmp_path / "one").write_text("second, longer")
    run(rclone, *quiet, "copyto", str(tmp_path / "one"), f"{place}/one")
    run(rclone, *quiet, "copyto", f"{place}/one", f"{place}/a copy")
    assert run(rclone, *quiet, "cat", f"{place}/a copy") == "second, longer"
    run(rclone, *quiet, "purge", place)


def test_swift_command(run: Run, tree: Path, tree_digests: dict[str, str], bucket_name: str, tmp_path: Path) -> None:
    """The swift command uploads the tree, downloads it, copies, posts metadata and deletes."""
    swift = program("swift")
    run(swift, "post", bucket_name)
    run(swift, "upload", "--quiet", bucket_name, *sorted(path.name for path in tree.iterdir()), cwd=tree)
    assert len(run(swift, "list", bucket_name).splitlines()) == len(tree_digests)
    (tmp_path / "back").mkdir()
    run(swift, "download", "--quiet", bucket_name, cwd=tmp_path / "back")
    assert digest_tree(tmp_path / "back") == tree_digests

    (tmp_path / "one").write_text("first")
    run(swift, "upload", bucket_name, "one", cwd=tmp_path)
    (tmp_path / "one").write_text("second")
    run(swift, "upload", bucket_name, "one", cwd=tmp_path)
    run(swift, "copy", "-d", f"/{bucket_name}/two", bucket_name, "one")
    run(swift, "download", bucket_name, "two", "-o", "two", cwd=tmp_path)
    assert (tmp_path / "two").read_text() == "second"
    run(swift, "post", "-m", "Colour:blue", bucket_name, "two")
    assert "Meta Colour: blue" in run(swift, "stat", bucket_name, "two")
    run(swift, "delete", bucket_name)
    assert bucket_name not in run(swift, "list")


def test_swift_large_objects(run: Run, bucket_name: str, tmp_path: Path) -> None:
    """A file sent in segments, as static and as dynamic large object, comes back whole."""
    swift = program("swift")
    (tmp_path / "large").write_bytes(bytes(range(256)) * 4096 * 5)
    for kind in ("--use-slo", "--use-dlo"):
        run(swift, "upload", kind, "--segment-size", "1048576", bucket_name, "large", cwd=tmp_path)
        run(swift, "download", bucket_name, "large", "-o", "back", cwd=tmp_path)
        assert (tmp_path / "back").read_bytes() == (tmp_path / "large").read_bytes()
        run(swift, "delete", bucket_name, "large")
