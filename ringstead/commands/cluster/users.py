"""`ringstead user`: users of a running cluster, made and removed through the store that keeps them.

Secrets are printed once, when a user is made; they are not to be had from a cluster afterwards. On a command line other
users of the machine can see them, so `--secret-key` and `--password` are read from RINGSTEAD_SECRET_KEY and
RINGSTEAD_PASSWORD as well.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ringstead.commands.options import config_option, data_option, json_option
from ringstead.errors import UsageError

if TYPE_CHECKING:
    from proxy.users import NewUser, User


@click.group()
def user() -> None:
    """Add, list, show and remove users."""


@user.command()
@click.argument("name")
@click.option("--project", help="The project whose account they use; the user's own name unless given.")
@click.option("--admin", is_flag=True, help="They may act on every account.")
@click.option("--display-name", default="", help="What S3 calls them.")
@click.option("--email", default="")
@click.option("--access-key", help="An S3 access key; made up unless given.")
@click.option("--secret-key", envvar="RINGSTEAD_SECRET_KEY", help="Its secret key.")
@click.option("--password", envvar="RINGSTEAD_PASSWORD", help="For Swift's v1 auth; made up unless given.")
@click.option("--renew", is_flag=True, hidden=True, help="If the user exists, set their password and access key.")
@data_option
@config_option
@json_option
def add(
    name: str,
    project: str | None,
    data: Path,
    config: Path | None,
    as_json: bool,
    **details: Any,
) -> None:
    """Make a user NAME (or PROJECT:NAME) and print the keys."""
    from ringstead.commands.access import Target, open_identity, run_command

    project, name = split_name(name, project)
    renew = details.pop("renew")
    settings = Target(data, config).settings()

    async def run() -> NewUser:
        from proxy.users import UserExists

        async with open_identity(settings) as identity:
            try:
                return await identity.add_user(project, name, **details)
            except UserExists:
                if not renew:
                    raise
                return await _renew(identity, f"{project}:{name}", **details)

    made = run_command(run)
    if as_json:
        click.echo(json.dumps(describe_new(made)))
        return
    click.echo(f"user         {made.user.full_name}")
    click.echo(f"access key   {made.access_key}")
    click.echo(f"secret key   {made.secret_key}")
    click.echo(f"password     {made.password}")


@user.command(name="list")
@data_option
@config_option
@json_option
def list_(data: Path, config: Path | None, as_json: bool) -> None:
    """List all users."""
    from ringstead.commands.access import Target, open_identity, run_command

    settings = Target(data, config).settings()

    async def run() -> list[User]:
        async with open_identity(settings) as identity:
            return await identity.list_users()

    users = run_command(run)
    if as_json:
        click.echo(json.dumps([describe(user) for user in users]))
        return
    for user in users:
        click.echo(f"{user.full_name}{'  (admin)' if user.admin else ''}  {' '.join(user.access_keys)}")


@user.command()
@click.argument("name")
@click.option("--project", help="The user's project, unless NAME is PROJECT:NAME.")
@data_option
@config_option
@json_option
def show(name: str, project: str | None, data: Path, config: Path | None, as_json: bool) -> None:
    """Show one user (no secrets)."""
    from ringstead.commands.access import Target, open_identity, run_command

    full_name = ":".join(split_name(name, project))
    settings = Target(data, config).settings()

    async def run() -> User:
        async with open_identity(settings) as identity:
            return await identity.show_user(full_name)

    found = describe(run_command(run))
    if as_json:
        click.echo(json.dumps(found))
        return
    for key, value in found.items():
        click.echo(f"{key.replace('_', ' '):<14}{' '.join(value) if isinstance(value, list) else value}")


@user.command()
@click.argument("name")
@click.option("--project", help="The user's project, unless NAME is PROJECT:NAME.")
@data_option
@config_option
def remove(name: str, project: str | None, data: Path, config: Path | None) -> None:
    """Remove a user; what the project's account holds stays."""
    from ringstead.commands.access import Target, open_identity, run_command

    full_name = ":".join(split_name(name, project))
    settings = Target(data, config).settings()

    async def run() -> None:
        async with open_identity(settings) as identity:
            await identity.remove_user(full_name)

    run_command(run)
    click.echo(f"removed {full_name}; proxies notice within seconds")


def split_name(name: str, project: str | None) -> tuple[str, str]:
    """(project, user) of NAME, PROJECT:NAME, or NAME with --project. Raises UsageError where the two disagree."""
    before, colon, after = name.partition(":")
    if not colon:
        return (project or name), name
    if project is not None and project != before:
        raise UsageError(f"{name} names the project {before}, and --project says {project}")
    return before, after


def describe(user: User) -> dict[str, Any]:
    """A user for programs, without secrets."""
    created = datetime.fromtimestamp(user.created_us / 1e6, UTC)
    return {
        "user": user.full_name,
        "project": user.project,
        "name": user.name,
        "display_name": user.display_name,
        "email": user.email,
        "admin": user.admin,
        "account": user.account,
        "id": user.id,
        "access_keys": list(user.access_keys),
        "created": created.isoformat(timespec="seconds"),
    }


def describe_new(made: NewUser) -> dict[str, Any]:
    """A user just made, secrets included."""
    return {
        **describe(made.user),
        "access_key": made.access_key,
        "secret_key": made.secret_key,
        "password": made.password,
    }


async def _renew(identity: Any, full_name: str, **details: Any) -> NewUser:
    """The user is there: give them this password and this key."""
    from proxy.users import NewUser

    await identity.set_password(full_name, details["password"])
    access_key, secret_key = await identity.add_access_key(full_name, details["access_key"], details["secret_key"])
    return NewUser(await identity.show_user(full_name), access_key, secret_key, details["password"])
