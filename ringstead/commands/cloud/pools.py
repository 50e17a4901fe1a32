"""`ringstead pool`, `host`, `az`, `quota`, `reconcile`, `task`: where things run, and whether all is as it is recorded."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Final

import click

from ringstead.commands.cloud.client import (
    LIMIT,
    Controller,
    cloud_command,
    project_option,
    say,
    short,
    show_list,
    size_text,
    table,
    wait_option,
)
from ringstead.errors import RingsteadError, UsageError

PASSWORD_VARIABLE: Final = "RINGSTEAD_POOL_PASSWORD"
PASSWORD_BYTES_MAX: Final = 4096


@click.group()
def pool() -> None:
    """Xen pools."""


@pool.command(name="add")
@click.argument("name")
@click.argument("url")
@click.option("--zone", required=True, metavar="ZONE", help="The availability zone that it stands in: z2, or r1z2.")
@click.option("--user", default="root", show_default=True)
@click.option(
    "--password-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help=f"File with its password.  [${PASSWORD_VARIABLE}, or asked for]",
)
@click.option(
    "--fingerprint", "pins", multiple=True, metavar="SHA256", help="Trust this certificate; one for each host."
)
@click.option(
    "--ca-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Trust these authorities, instead of the system's.",
)
@click.option(
    "--insecure", is_flag=True, help="Do not verify its certificate. Anybody on the way can read the password."
)
@cloud_command
def pool_add(
    name: str,
    url: str,
    zone: str,
    user: str,
    password_file: Path | None,
    pins: tuple[str, ...],
    ca_file: Path | None,
    insecure: bool,
    data: Path,
    config: Path | None,
    as_json: bool,
) -> None:
    """Add the pool at URL (https://HOST of any of its hosts). Its hosts and SRs enter the topology."""
    if sum((bool(pins), ca_file is not None, insecure)) > 1:
        raise UsageError("--fingerprint, --ca-file and --insecure: one of them")
    verify = "system"
    if pins:
        verify = f"pin:{','.join(pins)}"
    elif ca_file is not None:
        verify = f"ca:{ca_file.absolute()}"
    elif insecure:
        verify = "off"
    password = _password(name, password_file)
    answer = Controller(data, config).ask(
        "pool.add", name=name, url=url, zone=zone, user=user, password=password, verify=verify
    )
    found = answer["pool"]
    say(answer, f"pool {name}: {found['hosts']} hosts in {found['zone']}, {found['vms']} VMs", as_json=as_json)


def _password(name: str, file: Path | None) -> str:
    """From a file, the environment, or a person; never from the command line, which others can see."""
    if file is not None:
        try:
            with file.open("rb") as source:
                content = source.read(PASSWORD_BYTES_MAX + 1)
        except OSError as error:
            raise RingsteadError(f"{file}: {error.strerror}") from error
        try:
            password = content.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise UsageError(f"{file} is no text") from None
        if not password or len(content) > PASSWORD_BYTES_MAX:
            raise UsageError(f"{file} holds no password")
        return password
    if PASSWORD_VARIABLE in os.environ:
        return os.environ[PASSWORD_VARIABLE]
    if not sys.stdin.isatty():
        raise UsageError(f"the password of pool {name}: give --password-file or ${PASSWORD_VARIABLE}")
    entered: str = click.prompt(f"Password of pool {name}", hide_input=True, err=True)
    return entered


@pool.command(name="list")
@cloud_command
def pool_list(data: Path, config: Path | None, as_json: bool) -> None:
    """List pools."""
    show_list(
        Controller(data, config).ask("pool.list")["pools"],
        {
            "ID": lambda each: short(each["id"]),
            "NAME": "name",
            "ZONE": "zone",
            "URL": "url",
            "VERIFY": lambda each: each["verify"].partition(":")[0],
            "STATE": "state",
            "HOSTS": "hosts",
            "VMS": "vms",
            "VERSION": "version",
            "PROBLEM": "problem",
        },
        right=["HOSTS", "VMS"],
        as_json=as_json,
    )


@pool.command(name="remove")
@click.argument("name")
@cloud_command
def pool_remove(name: str, data: Path, config: Path | None, as_json: bool) -> None:
    """Forget a pool that holds nothing of ours. What runs in it is not touched."""
    answer = Controller(data, config).ask("pool.remove", name=name)
    say(answer, f"pool {name} is forgotten", as_json=as_json)


# ----------------------------------------------------------------------------------------------------------------- hosts


@click.group()
def host() -> None:
    """Hosts of the pools."""


@host.command(name="set")
@click.argument("name")
@click.option(
    "--vcpu-ratio", type=float, required=True, help="vCPUs given out per processor; 0: as controller.toml has it."
)
@cloud_command
def host_set(name: str, vcpu_ratio: float, data: Path, config: Path | None, as_json: bool) -> None:
    """Say how many vCPUs a host gives out."""
    answer = Controller(data, config).ask("host.set", name=name, vcpu_ratio=vcpu_ratio)
    say(answer, f"host {name} is set", as_json=as_json)


@host.command(name="list")
@click.option("--zone", metavar="ZONE", help="Only those in this zone, z2 or r1z2.")
@cloud_command
def host_list(zone: str | None, data: Path, config: Path | None, as_json: bool) -> None:
    """List hosts with what is claimed of them."""
    show_list(
        Controller(data, config).ask("host.list", zone=zone)["hosts"],
        {
            "ID": lambda each: short(each["id"]),
            "NAME": "name",
            "ZONE": "zone",
            "POOL": "pool",
            "STATE": "state",
            "SERVERS": "servers",
            "MEMORY": lambda each: f"{each['memory_mib']}/{each['memory_limit_mib']}M",
            "VCPUS": lambda each: f"{each['vcpus']}/{each['vcpu_limit']}",
        },
        right=["SERVERS", "MEMORY", "VCPUS"],
        as_json=as_json,
    )


def _host_switch(verb: str, operation: str, help_text: str, done: str) -> None:
    def run(name: str, data: Path, config: Path | None, as_json: bool) -> None:
        answer = Controller(data, config).ask(operation, name=name)
        if answer["warning"]:
            click.echo(f"ringstead: {answer['warning']}", err=True)
        say(answer, f"host {answer['host']['name']} {done}", as_json=as_json)

    run.__doc__ = help_text
    command: Any = cloud_command(run)
    host.command(name=verb)(click.argument("name")(command))


_host_switch("disable", "host.disable", "Let no new server come to a host.", "takes no new servers")
_host_switch("enable", "host.enable", "Let a host take servers (again).", "takes servers")


@host.command()
@click.argument("name")
@wait_option
@cloud_command
def evacuate(name: str, data: Path, config: Path | None, as_json: bool, wait: bool) -> None:
    """Empty a host. Servers of a live one move while they run; those of a dead one are started elsewhere."""
    controller = Controller(data, config)
    report_drain(controller, controller.ask("host.evacuate", name=name), f"host {name}", wait=wait, as_json=as_json)


@host.command()
@click.option("--zone", metavar="ZONE", help="The hosts of this zone among themselves.  [all hosts]")
@click.option("--dry-run", is_flag=True, help="Show the plan; move nothing.")
@wait_option
@cloud_command
def rebalance(zone: str | None, dry_run: bool, data: Path, config: Path | None, as_json: bool, wait: bool) -> None:
    """Level the load of hosts in few moves, until none is more than a tenth above the mean.

    Servers that asked for a zone stay in it; those with snapshots or in an affinity group stay where they are.
    """
    controller = Controller(data, config)
    answer = controller.ask("host.rebalance", zone=zone, dry_run=dry_run)
    task = answer["task"]
    if not as_json:
        _show_plan(answer)
    if wait and task is not None:
        answer = {**answer, "task": controller.follow(int(task), quiet=as_json)}
    if as_json:
        click.echo(json.dumps(answer))
    elif task is not None and wait:
        click.echo(f"load is level: {answer['task']['moved']} servers moved")
    elif task is not None:
        click.echo(f"task {task} carries it out; `ringstead task wait {task}` waits")


def _show_plan(plan: dict[str, Any]) -> None:
    if not plan["moves"]:
        click.echo("there is nothing to move: no host is far above the mean, or no move would help")
        return
    rows = [
        [each["server"], each["from"], each["to"], size_text(each["copied_bytes"]), each["wave"]]
        for each in plan["moves"]
    ]
    table(["SERVER", "FROM", "TO", "COPIED", "WAVE"], rows, right=["COPIED", "WAVE"])
    highest = [max(plan[when].values(), default=0.0) for when in ("before", "after")]
    click.echo(f"the fullest host goes from {highest[0]:.0%} to {highest[1]:.0%}")


def report_drain(controller: Controller, answer: dict[str, Any], what: str, *, wait: bool, as_json: bool) -> None:
    """Print what becomes of emptying hosts."""
    if not wait:
        text = f"{what} is being emptied: task {answer['task']}; `ringstead task wait {answer['task']}` waits"
        say(answer, text, as_json=as_json)
        return
    state = controller.follow(int(answer["task"]), quiet=as_json)
    text = f"{what} is empty: {state['moved']} servers moved"
    click.echo(json.dumps({**answer, "task": state}) if as_json else text)


@click.group()
def az() -> None:
    """Availability zones."""


@az.command(name="list")
@cloud_command
def az_list(data: Path, config: Path | None, as_json: bool) -> None:
    """List availability zones with their room."""
    show_list(
        Controller(data, config).ask("az.list")["zones"],
        {
            "ZONE": "zone",
            "POOLS": lambda each: ", ".join(each["pools"]),
            "HOSTS UP": lambda each: f"{each['hosts_up']}/{each['hosts']}",
            "SERVERS": "servers",
            "MEMORY": lambda each: f"{each['memory_mib']}/{each['memory_limit_mib']}M",
            "VCPUS": lambda each: f"{each['vcpus']}/{each['vcpu_limit']}",
        },
        right=["HOSTS UP", "SERVERS", "MEMORY", "VCPUS"],
        as_json=as_json,
    )


# ----------------------------------------------------------------------------------------------- reconcile, quotas, tasks


@click.command()
@click.option("--fix", is_flag=True, help="Mend what can be mended.")
@cloud_command
def reconcile(fix: bool, data: Path, config: Path | None, as_json: bool) -> None:
    """Hold what is recorded and claimed against what the pools really run.

    Each difference is seen twice, a moment apart, before it is reported. What is not this cluster's is never touched. Exit
    code 1 if differences are left.
    """
    answer = Controller(data, config).ask("reconcile", fix=fix)
    found = answer["differences"]
    left = [each for each in found if not each["mended"]]
    if as_json:
        click.echo(json.dumps(answer))
    else:
        for name in answer["silent_pools"]:
            click.echo(f"pool {name} does not answer; nothing is said about what is in it")
        if not found:
            click.echo("all is as it is recorded")
        for each in found:
            end = "mended" if each["mended"] else each["obstacle"] or _prospect(each["remedy"])
            click.echo(f"{each['kind']}: {each['text']} [{end}]")
    if left:
        click.get_current_context().exit(1)


def _prospect(remedy: str) -> str:
    """What would become of a difference that nobody has tried to mend yet."""
    from scheduler.lifecycle.reconcile import Remedy

    return f"left {remedy}" if remedy == Remedy.LOOK.value else f"--fix would {remedy}"


@click.command()
@project_option
@click.option("--servers", type=int, help="Servers; -1 is no limit.")
@click.option("--vcpus", type=int)
@click.option("--memory", type=LIMIT, metavar="SIZE", help="Memory of all servers, such as 64G.")
@click.option("--volumes", type=int)
@click.option("--disk", type=LIMIT, metavar="SIZE", help="Disks and volumes together, such as 2T.")
@cloud_command
def quota(
    project: str | None,
    servers: int | None,
    vcpus: int | None,
    memory: int | None,
    volumes: int | None,
    disk: int | None,
    data: Path,
    config: Path | None,
    as_json: bool,
) -> None:
    """Show what a project may hold and holds; with options, set it."""
    wanted = {
        "servers": servers,
        "vcpus": vcpus,
        "memory_mib": None if memory is None else max(-1, memory >> 20),
        "volumes": volumes,
        "disk_bytes": disk,
    }
    operation = "quota.show" if all(value is None for value in wanted.values()) else "quota.set"
    answer = Controller(data, config).ask(operation, project=project, **wanted)
    if as_json:
        click.echo(json.dumps(answer))
        return
    rows = []
    for field, label in (
        ("servers", "servers"),
        ("vcpus", "vCPUs"),
        ("memory_mib", "memory"),
        ("volumes", "volumes"),
        ("disk_bytes", "disk"),
    ):
        used, limit = answer["usage"][field], answer["quota"][field]
        rows.append([label, _amount(field, used), "no limit" if limit is None else _amount(field, limit)])
    click.echo(f"project {answer['project']}")
    table(["", "HOLDS", "MAY HOLD"], rows, right=["HOLDS", "MAY HOLD"])


def _amount(field: str, value: int) -> str:
    if field == "memory_mib":
        return f"{value}M"
    return size_text(value) if field == "disk_bytes" else str(value)


@click.group()
def task() -> None:
    """Work on servers and volumes."""


@task.command(name="list")
@click.option("--all", "ended", is_flag=True, help="What has ended, too.")
@cloud_command
def task_list(ended: bool, data: Path, config: Path | None, as_json: bool) -> None:
    """List open work."""
    show_list(
        Controller(data, config).ask("task.list", all=ended)["tasks"],
        {
            "ID": "id",
            "WORK": "verb",
            "ON": lambda each: short(each["subject"]),
            "STATE": "state",
            "STAGE": "stage",
            "DONE": lambda each: f"{each['progress']:.0%}",
            "TROUBLE": "error",
        },
        right=["ID", "DONE"],
        as_json=as_json,
    )


@task.command(name="wait")
@click.argument("number", type=int)
@cloud_command
def task_wait(number: int, data: Path, config: Path | None, as_json: bool) -> None:
    """Wait for a task; exit code 1 if it failed."""
    state = Controller(data, config).follow(number, quiet=as_json)
    say(state, f"task {number}, {state['verb']}: {state['state']}", as_json=as_json)
