"""`ringstead server`: create, list, show, delete, power, migrate, snapshot, revert, console, place, group."""

from __future__ import annotations

import json
import uuid
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
    table,
    wait_option,
)
from ringstead.commands.cloud.when import when_text
from scheduler.placement.request import Policy

_SPEC_OPTIONS = (
    click.option("--flavor", required=True, metavar="NAME", help="Its size; `ringstead flavor list`."),
    click.option("--image", metavar="NAME", help="What it starts from; `ringstead image list`."),
    click.option("--template", metavar="NAME", help="A template of the pool, instead of an image."),
    click.option("--zone", metavar="ZONE", help="Availability zone, z2.  [any]"),
    click.option("--group", metavar="NAME", help="Server group."),
    click.option("--disk", "disk_bytes", type=SIZE, metavar="SIZE", help="Its disk.  [the flavor's]"),
    click.option("--volume", "volumes", multiple=True, metavar="NAME", help="Attach this volume; may be repeated."),
    click.option("--network", metavar="NAME", help="Network of the pool.  [the first]"),
    click.option("--same-host", "same_host_as", multiple=True, metavar="SERVER", help="On the host of this server."),
    click.option(
        "--different-host",
        "different_host_from",
        multiple=True,
        metavar="SERVER",
        help="Not on the host of this server.",
    ),
    click.option("--require", "required_traits", multiple=True, metavar="TRAIT", help="The host must have it."),
    click.option("--forbid", "forbidden_traits", multiple=True, metavar="TRAIT", help="The host must not have it."),
)


def spec_options(function: Any) -> Any:
    """What a server is asked with."""
    for option in reversed(_SPEC_OPTIONS):
        function = option(function)
    return function


@click.group()
def server() -> None:
    """Virtual machines."""


@server.command()
@click.argument("name")
@spec_options
@project_option
@click.option("--stopped", is_flag=True, help="Do not start it.")
@wait_option
@cloud_command
def create(name: str, data: Path, config: Path | None, as_json: bool, wait: bool, **wanted: Any) -> None:
    """Create a server."""
    controller = Controller(data, config)
    answer = controller.ask("server.create", id=str(uuid.uuid4()), name=name, **wanted)
    finish(controller, answer, "server", wait=wait, as_json=as_json)


@server.command(name="list")
@project_option
@click.option("--zone", metavar="ZONE", help="Only those in this zone, z2 or r1z2.")
@click.option("--state", metavar="STATE", help="Only those in this state.")
@cloud_command
def list_(data: Path, config: Path | None, as_json: bool, **where: Any) -> None:
    """List servers."""
    show_list(
        Controller(data, config).ask("server.list", **where)["servers"],
        {
            "ID": lambda each: short(each["id"]),
            "NAME": "name",
            "PROJECT": "project",
            "STATE": state_text,
            "ZONE": "zone",
            "HOST": "host",
            "VCPUS": "vcpus",
            "MEMORY": lambda each: f"{each['memory_mib']}M",
            "DISK": lambda each: size_text(each["disk_bytes"]),
        },
        right=["VCPUS", "MEMORY", "DISK"],
        as_json=as_json,
    )


@server.command()
@click.argument("name")
@project_option
@cloud_command
def show(name: str, project: str | None, data: Path, config: Path | None, as_json: bool) -> None:
    """Show a server."""
    found = Controller(data, config).ask("server.show", name=name, project=project)["server"]
    if as_json:
        click.echo(json.dumps(found))
        return
    task = found["task"]
    show_pairs(
        [
            ("id", found["id"]),
            ("name", found["name"]),
            ("project", found["project"]),
            ("state", found["state"]),
            ("fault", found["fault"]),
            ("at work", f"task {task['id']}: {task['verb']}, {task['stage']}" if task else ""),
            ("zone", found["zone"]),
            ("host", found["host"]),
            ("pool", found["pool"]),
            ("flavor", found["flavor"]),
            ("vCPUs", found["vcpus"]),
            ("memory", f"{found['memory_mib']}M"),
            ("disk", size_text(found["disk_bytes"])),
            ("image", found["image"]),
            ("template", found["template"]),
            ("group", found["group"]),
            ("volumes", ", ".join(f"{each['name']} ({each['device']})" for each in found["volumes"])),
            ("snapshots", ", ".join(each["name"] for each in found["snapshots"])),
            ("created", when_text(found["created_s"])),
        ]
    )


@server.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@project_option
@wait_option
@cloud_command
def delete(
    names: tuple[str, ...], project: str | None, data: Path, config: Path | None, as_json: bool, wait: bool
) -> None:
    """Delete servers with their own disks. Volumes stay."""
    controller = Controller(data, config)
    answers = [controller.ask("server.delete", name=name, project=project) for name in names]
    for answer in answers:
        if wait:
            controller.follow(answer["task"], quiet=as_json)
            answer["server"]["state"] = "deleted"
        finish(controller, answer if not wait else {"server": answer["server"]}, "server", wait=False, as_json=as_json)


def _power_command(verb: str, action: str, help_text: str, hard: str = "") -> None:
    """A command that changes the power state; with `hard` it has `--hard`."""

    def run(
        name: str, project: str | None, data: Path, config: Path | None, as_json: bool, wait: bool, force: bool = False
    ) -> None:
        controller = Controller(data, config)
        chosen = hard if force else action
        answer = controller.ask("server.power", name=name, project=project, action=chosen)
        finish(controller, answer, "server", wait=wait, as_json=as_json)

    run.__doc__ = help_text
    command: Any = cloud_command(wait_option(project_option(run)))
    if hard:
        command = click.option("--hard", "force", is_flag=True, help="Do not ask the guest.")(command)
    server.command(name=verb)(click.argument("name")(command))


_power_command("start", "START", "Start a server.")
_power_command("stop", "SHUT_DOWN", "Stop a server: its guest is asked to shut down.", hard="CUT")
_power_command("reboot", "REBOOT", "Reboot a server: its guest is asked to.", hard="RESET")
_power_command("pause", "PAUSE", "Pause a server; it keeps its memory.")
_power_command("suspend", "SUSPEND", "Suspend a server to disk.")
_power_command("resume", "RESUME", "Let a paused or suspended server run on.")


@server.command()
@click.argument("name")
@click.option("--host", metavar="HOST", help="To this host.")
@click.option("--zone", metavar="ZONE", help="To this zone.")
@project_option
@wait_option
@cloud_command
def migrate(
    name: str,
    host: str | None,
    zone: str | None,
    project: str | None,
    data: Path,
    config: Path | None,
    as_json: bool,
    wait: bool,
) -> None:
    """Move a server while it runs, with its disks where the new host does not reach them."""
    controller = Controller(data, config)
    answer = controller.ask("server.migrate", name=name, project=project, host=host, zone=zone)
    finish(controller, answer, "server", wait=wait, as_json=as_json)


@server.command()
@click.argument("name")
@click.argument("snapshot")
@click.option("--delete", "remove", is_flag=True, help="Delete that snapshot instead.")
@project_option
@wait_option
@cloud_command
def snapshot(
    name: str,
    snapshot: str,
    remove: bool,
    project: str | None,
    data: Path,
    config: Path | None,
    as_json: bool,
    wait: bool,
) -> None:
    """Keep a server's disks as they are now, as SNAPSHOT."""
    controller = Controller(data, config)
    operation = "server.snapshot-delete" if remove else "server.snapshot"
    answer = controller.ask(operation, name=name, project=project, snapshot=snapshot)
    finish(controller, answer, "server", wait=wait, as_json=as_json)


@server.command()
@click.argument("name")
@click.argument("snapshot")
@project_option
@wait_option
@cloud_command
def revert(
    name: str, snapshot: str, project: str | None, data: Path, config: Path | None, as_json: bool, wait: bool
) -> None:
    """Bring a server's disks back to SNAPSHOT. What was written since is lost."""
    controller = Controller(data, config)
    answer = controller.ask("server.revert", name=name, project=project, snapshot=snapshot)
    finish(controller, answer, "server", wait=wait, as_json=as_json)


@server.command()
@click.argument("name")
@project_option
@cloud_command
def console(name: str, project: str | None, data: Path, config: Path | None, as_json: bool) -> None:
    """Print where a server's console is; the pool's own user and password open it."""
    answer = Controller(data, config).ask("server.console", name=name, project=project)
    say(answer, answer["url"], as_json=as_json)


@server.command()
@click.option("--name", default="what-if", hidden=True)
@spec_options
@project_option
@click.option("--explain", is_flag=True, help="For each host that was not chosen, the reason.")
@cloud_command
def place(data: Path, config: Path | None, as_json: bool, explain: bool, **wanted: Any) -> None:
    """Say where a server would go. Nothing is created or claimed."""
    answer = Controller(data, config).ask("server.place", **wanted)
    if as_json:
        click.echo(json.dumps(answer))
    elif answer["chosen"] is None:
        click.echo("no host can take it")
    else:
        alternates = f" (then {', '.join(answer['alternates'])})" if answer["alternates"] else ""
        click.echo(f"{answer['chosen']}{alternates}")
    if explain and not as_json:
        click.echo()
        rows = [
            [
                each["zone"],
                each["host"],
                each["verdict"],
                "" if each["score"] is None else f"{each['score']:.3f}",
                each["reason"],
            ]
            for each in answer["hosts"]
        ]
        table(["ZONE", "HOST", "VERDICT", "SCORE", "WHY"], rows, right=["SCORE"])
    if answer["chosen"] is None:
        click.get_current_context().exit(1)


# ---------------------------------------------------------------------------------------------------------------- groups


@server.group()
def group() -> None:
    """Server groups: together on a host, or apart."""


@group.command(name="create")
@click.argument("name")
@click.option(
    "--policy",
    type=click.Choice([policy.value for policy in Policy]),
    default=Policy.ANTI_AFFINITY.value,
    show_default=True,
)
@project_option
@cloud_command
def group_create(name: str, policy: str, project: str | None, data: Path, config: Path | None, as_json: bool) -> None:
    """Create a server group; servers join it when they are created."""
    answer = Controller(data, config).ask("group.create", name=name, policy=policy, project=project)
    say(answer, f"server group {name}: {policy}", as_json=as_json)


@group.command(name="list")
@cloud_command
def group_list(data: Path, config: Path | None, as_json: bool) -> None:
    """List server groups with their servers."""
    show_list(
        Controller(data, config).ask("group.list")["groups"],
        {
            "ID": lambda each: short(each["id"]),
            "NAME": "name",
            "PROJECT": "project",
            "POLICY": "policy",
            "SERVERS": lambda each: ", ".join(
                f"{member['name']}@{member['host'] or '-'}" for member in each["servers"]
            ),
        },
        as_json=as_json,
    )


@group.command(name="delete")
@click.argument("name")
@project_option
@cloud_command
def group_delete(name: str, project: str | None, data: Path, config: Path | None, as_json: bool) -> None:
    """Delete an empty server group."""
    answer = Controller(data, config).ask("group.delete", name=name, project=project)
    say(answer, f"server group {name} is deleted", as_json=as_json)
