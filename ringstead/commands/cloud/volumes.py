"""`ringstead volume`, `ringstead image`, `ringstead flavor`: what servers are made of."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import click

from ringstead.commands.cloud.client import (
    SIZE,
    Controller,
    cloud_command,
    finish,
    project_option,
    say,
    short,
    show_list,
    show_pairs,
    size_text,
    state_text,
    wait_option,
)
from ringstead.commands.cloud.when import when_text
from ringstead.errors import RingsteadError, UsageError


@click.group()
def volume() -> None:
    """Disks that outlive servers."""


@volume.command(name="create")
@click.argument("name")
@click.option("--size", "size_bytes", type=SIZE, metavar="SIZE", help="Such as 20G.  [the image's or source's]")
@click.option("--zone", metavar="ZONE", help="Availability zone.  [any]")
@click.option("--near", metavar="SERVER", help="Where this server's host can reach it.")
@click.option("--type", "volume_type", metavar="TAG", help="On an SR with this tag.")
@click.option("--image", metavar="NAME", help="With the content of an image.")
@click.option("--source", metavar="VOLUME", help="A copy of this volume, which is detached; in its pool.")
@project_option
@wait_option
@cloud_command
def volume_create(
    name: str, volume_type: str | None, data: Path, config: Path | None, as_json: bool, wait: bool, **wanted: Any
) -> None:
    """Create a volume."""
    if wanted["size_bytes"] is None and not wanted["image"] and not wanted["source"]:
        raise UsageError("a volume needs a --size, or an --image or --source whose size it takes")
    controller = Controller(data, config)
    answer = controller.ask("volume.create", id=str(uuid.uuid4()), name=name, type=volume_type, **wanted)
    finish(controller, answer, "volume", wait=wait, as_json=as_json)


@volume.command(name="list")
@project_option
@click.option("--zone", metavar="ZONE", help="Only those in this zone, z2 or r1z2.")
@cloud_command
def volume_list(data: Path, config: Path | None, as_json: bool, **where: Any) -> None:
    """List volumes."""
    show_list(
        Controller(data, config).ask("volume.list", **where)["volumes"],
        {
            "ID": lambda each: short(each["id"]),
            "NAME": "name",
            "PROJECT": "project",
            "STATE": state_text,
            "SIZE": lambda each: size_text(each["size_bytes"]),
            "ZONE": "zone",
            "SERVER": lambda each: f"{each['server']} {each['device']}".strip(),
            "SNAPSHOTS": lambda each: ", ".join(snapshot["name"] for snapshot in each["snapshots"]),
        },
        right=["SIZE"],
        as_json=as_json,
    )


@volume.command(name="show")
@click.argument("name")
@project_option
@cloud_command
def volume_show(name: str, project: str | None, data: Path, config: Path | None, as_json: bool) -> None:
    """Show a volume."""
    found = Controller(data, config).ask("volume.show", name=name, project=project)["volume"]
    if as_json:
        click.echo(json.dumps(found))
        return
    show_pairs(
        [
            ("id", found["id"]),
            ("name", found["name"]),
            ("project", found["project"]),
            ("state", found["state"]),
            ("fault", found["fault"]),
            ("size", size_text(found["size_bytes"])),
            ("zone", found["zone"]),
            ("pool", found["pool"]),
            ("SR", found["sr_id"]),
            ("server", f"{found['server']} {found['device']}".strip()),
            ("snapshots", ", ".join(each["name"] for each in found["snapshots"])),
            ("created", when_text(found["created_s"])),
        ]
    )


@volume.command()
@click.argument("name")
@click.argument("server")
@click.option("--read-only", is_flag=True)
@project_option
@wait_option
@cloud_command
def attach(data: Path, config: Path | None, as_json: bool, wait: bool, **wanted: Any) -> None:
    """Attach a volume to SERVER, running or not."""
    controller = Controller(data, config)
    finish(controller, controller.ask("volume.attach", **wanted), "volume", wait=wait, as_json=as_json)


@volume.command()
@click.argument("name")
@project_option
@wait_option
@cloud_command
def detach(data: Path, config: Path | None, as_json: bool, wait: bool, **wanted: Any) -> None:
    """Detach a volume from the server that has it."""
    controller = Controller(data, config)
    finish(controller, controller.ask("volume.detach", **wanted), "volume", wait=wait, as_json=as_json)


@volume.command()
@click.argument("name")
@click.argument("size_bytes", type=SIZE, metavar="SIZE")
@project_option
@wait_option
@cloud_command
def extend(data: Path, config: Path | None, as_json: bool, wait: bool, **wanted: Any) -> None:
    """Make a detached volume SIZE large."""
    controller = Controller(data, config)
    finish(controller, controller.ask("volume.extend", **wanted), "volume", wait=wait, as_json=as_json)


@volume.command(name="snapshot")
@click.argument("name")
@click.argument("snapshot")
@click.option("--delete", "remove", is_flag=True, help="Delete that snapshot instead.")
@project_option
@wait_option
@cloud_command
def volume_snapshot(remove: bool, data: Path, config: Path | None, as_json: bool, wait: bool, **wanted: Any) -> None:
    """Keep a volume as it is now, as SNAPSHOT, or delete that snapshot."""
    controller = Controller(data, config)
    operation = "volume.snapshot-delete" if remove else "volume.snapshot"
    finish(controller, controller.ask(operation, **wanted), "volume", wait=wait, as_json=as_json)


@volume.command(name="delete")
@click.argument("name")
@project_option
@wait_option
@cloud_command
def volume_delete(data: Path, config: Path | None, as_json: bool, wait: bool, **wanted: Any) -> None:
    """Delete a detached volume with its snapshots."""
    controller = Controller(data, config)
    answer = controller.ask("volume.delete", **wanted)
    if wait:
        answer = {
            "volume": {**answer["volume"], "state": "deleted"},
            "done": controller.follow(answer["task"], quiet=as_json),
        }
    finish(controller, answer, "volume", wait=False, as_json=as_json)


# ---------------------------------------------------------------------------------------------------------------- images


@click.group()
def image() -> None:
    """What servers start from: objects in the store."""


@image.command(name="create")
@click.argument("name")
@click.argument("file", required=False, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--server", metavar="NAME", help="From this server's disk, instead of a FILE.")
@click.option("--format", "image_format", type=click.Choice(["auto", "raw", "vhd"]), default="auto", show_default=True)
@project_option
@wait_option
@cloud_command
def image_create(
    name: str,
    file: Path | None,
    server: str | None,
    image_format: str,
    project: str | None,
    data: Path,
    config: Path | None,
    as_json: bool,
    wait: bool,
) -> None:
    """Upload FILE (raw or VHD) into the object store as an image, or save a server's disk as one."""
    if (file is None) == (server is None):
        raise UsageError("give a FILE, or --server")
    controller = Controller(data, config)
    if server is not None:
        wanted = "vhd" if image_format == "auto" else image_format
        answer = controller.ask("image.capture", name=name, server=server, project=project, format=wanted)
        finish(controller, answer, "image", wait=wait, as_json=as_json, again=lambda: _image(controller, name))
        return
    assert file is not None
    known = [each["name"] for each in controller.ask("image.list")["images"]]
    if name in known:
        raise RingsteadError(f"there is an image {name!r} already")
    answer = _upload(controller, name, file, image_format, data, as_json)
    finish(controller, answer, "image", wait=True, as_json=as_json)


def _image(controller: Controller, name: str) -> dict[str, Any]:
    images = controller.ask("image.list")["images"]
    return {"image": next((each for each in images if each["name"] == name), None)}


def _upload(
    controller: Controller, name: str, file: Path, image_format: str, data: Path, quiet: bool
) -> dict[str, Any]:
    """The bytes into the store, then the record. A record that is refused takes its object with it."""
    from proxy.store import ObjectStore
    from ringstead.commands.access import Target, open_cluster, run_command
    from ringstead.services.controller.images import StoreImages, inspect_file

    try:
        found, size_bytes, disk_bytes = inspect_file(file, image_format)
    except (OSError, ValueError) as error:
        raise RingsteadError(f"{file}: {getattr(error, 'strerror', None) or error}") from error
    if not size_bytes:
        raise RingsteadError(f"{file} is empty")
    object_name = f"image-{uuid.uuid4()}"
    settings = Target(data).settings()

    async def store() -> tuple[int, str]:
        async with open_cluster(settings) as cluster:
            return await StoreImages(ObjectStore(cluster)).save(object_name, _pieces(file, size_bytes, quiet))

    stored_bytes, checksum = run_command(store)
    try:
        return controller.ask(
            "image.register",
            name=name,
            format=found,
            size_bytes=stored_bytes,
            disk_bytes=disk_bytes,
            object=object_name,
            checksum=checksum,
        )
    except RingsteadError:

        async def take_back() -> None:
            async with open_cluster(settings) as cluster:
                await StoreImages(ObjectStore(cluster)).delete(object_name)

        run_command(take_back)
        raise


async def _pieces(file: Path, size_bytes: int, quiet: bool) -> AsyncIterator[bytes]:
    """The file's bytes, with a bar on a terminal."""
    import trio

    from ringstead.services.controller.images import PIECE_BYTES

    with click.progressbar(length=size_bytes, label=file.name, file=sys.stderr, hidden=quiet) as bar:
        async with await trio.open_file(file, "rb") as source:
            while piece := await source.read(PIECE_BYTES):
                yield piece
                bar.update(len(piece))


@image.command(name="list")
@cloud_command
def image_list(data: Path, config: Path | None, as_json: bool) -> None:
    """List images."""
    show_list(
        Controller(data, config).ask("image.list")["images"],
        {
            "ID": lambda each: short(each["id"]),
            "NAME": "name",
            "STATE": "state",
            "FORMAT": "format",
            "SIZE": lambda each: size_text(each["size_bytes"]),
            "DISK": lambda each: size_text(each["disk_bytes"]),
            "CREATED": lambda each: when_text(each["created_s"]),
        },
        right=["SIZE", "DISK"],
        as_json=as_json,
    )


@image.command(name="delete")
@click.argument("name")
@cloud_command
def image_delete(name: str, data: Path, config: Path | None, as_json: bool) -> None:
    """Delete an image; servers made from it keep their disks."""
    answer = Controller(data, config).ask("image.delete", name=name)
    say(answer, f"image {name} is deleted", as_json=as_json)


# --------------------------------------------------------------------------------------------------------------- flavors


@click.group()
def flavor() -> None:
    """Sizes that servers come in."""


@flavor.command(name="create")
@click.argument("name")
@click.option("--memory", "memory_bytes", type=SIZE, required=True, metavar="SIZE", help="Such as 2G.")
@click.option("--vcpus", type=int, required=True)
@click.option("--disk", "disk_bytes", type=SIZE, required=True, metavar="SIZE", help="Such as 20G.")
@click.option("--require", "required_traits", multiple=True, metavar="TRAIT", help="The host must have it.")
@click.option("--forbid", "forbidden_traits", multiple=True, metavar="TRAIT", help="The host must not have it.")
@cloud_command
def flavor_create(name: str, memory_bytes: int, data: Path, config: Path | None, as_json: bool, **wanted: Any) -> None:
    """Create a flavor."""
    if memory_bytes % (1 << 20):
        raise UsageError(f"memory of {memory_bytes} bytes is no whole number of MiB; write 512M or 2G")
    answer = Controller(data, config).ask("flavor.create", name=name, memory_mib=memory_bytes >> 20, **wanted)
    say(answer, f"flavor {name} is there", as_json=as_json)


@flavor.command(name="list")
@cloud_command
def flavor_list(data: Path, config: Path | None, as_json: bool) -> None:
    """List flavors."""
    flavors = Controller(data, config).ask("flavor.list")["flavors"]
    show_list(
        sorted(flavors, key=lambda each: (each["memory_mib"], each["vcpus"], each["name"])),
        {
            "NAME": "name",
            "VCPUS": "vcpus",
            "MEMORY": lambda each: f"{each['memory_mib']}M",
            "DISK": lambda each: size_text(each["disk_bytes"]),
            "TRAITS": lambda each: " ".join(
                [*each["required_traits"], *(f"!{trait}" for trait in each["forbidden_traits"])]
            ),
        },
        right=["VCPUS", "MEMORY", "DISK"],
        as_json=as_json,
    )


@flavor.command(name="delete")
@click.argument("name")
@cloud_command
def flavor_delete(name: str, data: Path, config: Path | None, as_json: bool) -> None:
    """Delete a flavor; servers keep the sizes that they were made with."""
    answer = Controller(data, config).ask("flavor.delete", name=name)
    say(answer, f"flavor {name} is deleted", as_json=as_json)
