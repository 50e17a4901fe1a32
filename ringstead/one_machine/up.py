"""`ringstead up`: a cluster on one machine, from an empty folder to credentials that clients understand.

It makes the data directory if need be, takes its lock, starts the services under the supervisor, makes the first user
through the store itself (there is no second way to make users), and stays until it is told to stop.

The first user's keys are drawn here and written to `credentials.env` *before* the user is made, under a name that no
client reads, and renamed afterwards. A start that dies between the two is carried on by the next one with the same keys.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shlex
import signal
import string
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import structlog
import trio

from ring.moves import moving_dir
from ringstead.errors import ClusterBusy, RingsteadError, ServiceFailed
from ringstead.one_machine.growth import follow_rings, storage_names
from ringstead.one_machine.layout import (
    XEN_HOSTS,
    DataDirectory,
    Shape,
    open_directory,
    remove_stale_sockets,
    service_names,
)
from ringstead.processes import logs
from ringstead.processes.control import Answer, serve_control
from ringstead.processes.fork_server import ForkServer
from ringstead.processes.life import Stop, one_failure, run_until_stopped, settle
from ringstead.processes.sockets import is_port_free
from ringstead.processes.supervisor import ServiceSpec, Supervisor
from ringstead.settings.cluster_key import write_private

log = structlog.get_logger("ringstead.up")

FIRST_USER: Final = "admin"
FIRST_PROJECT: Final = "admin"
REGION: Final = "us-east-1"
USER_TIMEOUT_S: Final = 60.0
SUPERVISOR: Final = "supervisor"
OPTIONAL_KINDS: Final = frozenset({"xensim", "controller"})
"""Without these the object store is whole."""
NOTHING_TO_DO: Final = 3
"""The exit code of `ringstead rebalance grow` where all that was asked for is there."""
FOLLOW_S: Final = 2.0
"""How often the supervisor looks whether devices have come or gone."""


class AlreadyRunning(ClusterBusy):
    """The operator's: another `ringstead up` runs on the same folder."""


@dataclass(frozen=True)
class Running:
    """A cluster that is up, for whoever prints what to do next."""

    directory: DataDirectory
    shape: Shape
    endpoint: str
    credentials: Mapping[str, str]


def run_up(
    directory: DataDirectory,
    asked: dict[str, Any],
    *,
    say: Callable[[str], None],
    announce: Callable[[Running], None],
    loads: Mapping[str, Callable[[], None]],
) -> None:
    """Run the cluster until told to stop. `say` gets lines for the operator, `announce` is called once all is up.

    `loads` has for a kind of service what imports its program: services of kinds with the same one share its memory.

    Where it runs already, more zones or devices can be asked for all the same: they join what runs. Raises RingsteadError
    where the directory, the port or a service is in the way.
    """
    try:
        _run(directory, asked, say, announce, loads)
    except AlreadyRunning:
        if not directory.exists or not {"zones", "devices_per_zone"} & set(asked):
            raise
        if not grow_if_asked(directory, asked, say):
            raise


def _run(
    directory: DataDirectory,
    asked: dict[str, Any],
    say: Callable[[str], None],
    announce: Callable[[Running], None],
    loads: Mapping[str, Callable[[], None]],
) -> None:
    # The servers first: what is loaded from here on is of no use to the services.
    with _lock(directory), _fork_servers(loads, say) as fork_servers:
        shape, notes = open_directory(directory, asked)
        for note in notes:
            say(note)
        _check_port(shape)
        remove_stale_sockets(directory)
        grow_if_asked(directory, asked, say)
        follow_rings(directory)
        logs.set_up(SUPERVISOR, file=directory.logs_dir / f"{SUPERVISOR}.log")
        supervisor = Supervisor(service_specs(directory, shape), fork_servers)
        with one_failure():
            run_until_stopped(lambda stop: _supervise(supervisor, directory, shape, stop, say, announce))


@contextlib.contextmanager
def _fork_servers(
    loads: Mapping[str, Callable[[], None]], say: Callable[[str], None]
) -> Iterator[dict[str, ForkServer]]:
    """By kind: a server for each different way to load; none where the system refuses.

    What the first of them loads is loaded here already: others load more, and the pages of that are then all of theirs.
    """
    next(iter(loads.values()))()
    with contextlib.ExitStack() as stack:
        servers: dict[Callable[[], None], ForkServer] = {}
        try:
            for load in dict.fromkeys(loads.values()):
                servers[load] = stack.enter_context(contextlib.closing(ForkServer.start(load)))
        except OSError as error:
            say(f"services do not share the memory of their program: {error}")
        yield {kind: servers[load] for kind, load in loads.items() if load in servers}


def service_specs(directory: DataDirectory, shape: Shape) -> list[ServiceSpec]:
    """The processes of a one-machine cluster."""
    return [
        ServiceSpec(
            name,
            kind,
            _simulator_command(directory, shape)
            if kind == "xensim"
            else (sys.executable, "-m", "ringstead", "serve", kind, "--config", str(directory.config_file(name))),
            directory.logs_dir / f"{name}.err",
            optional=kind in OPTIONAL_KINDS,
        )
        for kind, names in {**service_names(shape), "storage": storage_names(directory)}.items()
        for name in names
    ]


def _simulator_command(directory: DataDirectory, shape: Shape) -> tuple[str, ...]:
    """One pool a zone. Its state is kept, so that servers outlive a restart as they do with real pools."""
    options = ("--port", str(shape.xen_port), "--pools", str(shape.zones), "--hosts", str(XEN_HOSTS))
    state = ("--state", str(directory.path / "xensim"))
    return (sys.executable, "-m", "ringstead", "xensim", *options, *state)


def grow_if_asked(directory: DataDirectory, asked: Mapping[str, Any], say: Callable[[str], None]) -> bool:
    """Where more zones or devices are asked for than there are, let them join; say so, or why they can't; whether any did.

    Through the command line, in a process of its own: what it loads is gone from memory when it is done.
    """
    options = [
        word
        for name in ("zones", "devices_per_zone")
        if name in asked
        for word in (f"--{name.replace('_', '-')}", str(asked[name]))
    ]
    if not options:
        return False
    command = [sys.executable, "-m", "ringstead", "rebalance", "grow", *options, "--data", str(directory.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode not in (0, NOTHING_TO_DO):
        say(f"not grown: {done.stderr.strip().removeprefix('ringstead: ')}")
    elif done.returncode == 0:
        for line in done.stdout.strip().splitlines():
            say(line)
    return done.returncode == 0


async def _supervise(
    supervisor: Supervisor,
    directory: DataDirectory,
    shape: Shape,
    stop: Stop,
    say: Callable[[str], None],
    announce: Callable[[Running], None],
) -> None:
    async def bring_up() -> None:
        await supervisor.started.wait()
        if not stop.asked:
            credentials = await _first_user(directory, shape)
            settle()
            with contextlib.suppress(OSError):  # nobody reads what we print: no reason to stop
                announce(Running(directory, shape, endpoint_of(shape), credentials))
        await stop.wait()
        with contextlib.suppress(OSError):
            say("stopping")

    async with trio.open_nursery() as nursery:
        await nursery.start(
            serve_control, directory.run_dir / f"{SUPERVISOR}.control", _operations(supervisor, directory, shape, stop)
        )
        nursery.start_soon(bring_up)
        nursery.start_soon(_follow_devices, supervisor, directory, shape)
        await supervisor.run(stop)
        nursery.cancel_scope.cancel()


async def _follow_devices(supervisor: Supervisor, directory: DataDirectory, shape: Shape) -> None:
    """Give devices that come with a ring their services, and end those of devices that are in none any more."""
    await supervisor.started.wait()
    seen: object = None
    while True:
        signature = _signature(directory)
        if signature != seen:
            try:
                follow_rings(directory)
                await supervisor.adopt(service_specs(directory, shape))
                seen = signature
            except (RingsteadError, OSError) as error:
                log.error("devices are not followed", reason=str(error))
        await trio.sleep(FOLLOW_S)


def _signature(directory: DataDirectory) -> object:
    """Changes when rings in force do."""
    found = []
    for path in (directory.ring_file, moving_dir(directory.ring_file)):
        with contextlib.suppress(OSError):
            found.append((path.stat().st_ino, path.stat().st_mtime_ns))
    return found


# ----------------------------------------------------------------------------------------------------- the first user


async def _first_user(directory: DataDirectory, shape: Shape) -> dict[str, str]:
    """The first user's credentials, from the file or made now."""
    path = directory.credentials_file
    unfinished = path.with_name(f".{path.name}.unfinished")
    if path.exists():
        credentials = parse_exports(path.read_text())
        if not set(credentials) >= {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "ST_KEY"}:
            raise RingsteadError(f"{path} is not what it was; remove it, and the next start makes new credentials")
        fresh = credentials_for(shape, credentials)
        if fresh != credentials:
            write_private(path, render_exports(fresh))
        return fresh
    if unfinished.exists():
        credentials = credentials_for(shape, parse_exports(unfinished.read_text()))
    else:
        credentials = credentials_for(shape, _make_secrets())
        write_private(unfinished, render_exports(credentials))
    await _make_user(directory, credentials)
    write_private(path, render_exports(credentials))
    unfinished.unlink()
    return credentials


def _make_secrets() -> dict[str, str]:
    letters = string.ascii_letters + string.digits
    upper = string.ascii_uppercase + string.digits
    return {
        "AWS_ACCESS_KEY_ID": "".join(secrets.choice(upper) for _ in range(20)),
        "AWS_SECRET_ACCESS_KEY": "".join(secrets.choice(letters) for _ in range(40)),
        "ST_KEY": "".join(secrets.choice(letters) for _ in range(24)),
    }


async def _make_user(directory: DataDirectory, credentials: Mapping[str, str]) -> None:
    """Through the command line, in a process of its own: what it loads is gone from memory when it is done."""
    project_user = f"{FIRST_PROJECT}:{FIRST_USER}"
    command = [sys.executable, "-m", "ringstead", "user", "add", project_user, "--admin", "--renew"]
    command += ["--data", str(directory.path), "--access-key", credentials["AWS_ACCESS_KEY_ID"], "--json"]
    environment = {
        **os.environ,
        "RINGSTEAD_SECRET_KEY": credentials["AWS_SECRET_ACCESS_KEY"],
        "RINGSTEAD_PASSWORD": credentials["ST_KEY"],
    }
    with trio.move_on_after(USER_TIMEOUT_S):
        done = await trio.run_process(
            command, env=environment, capture_stdout=True, capture_stderr=True, check=False, stdin=subprocess.DEVNULL
        )
        if done.returncode != 0:
            raise ServiceFailed(f"the first user could not be made: {done.stderr.decode().strip()}")
        return
    raise ServiceFailed(f"the first user could not be made within {USER_TIMEOUT_S:.0f} s")


def credentials_for(shape: Shape, kept: Mapping[str, str]) -> dict[str, str]:
    """All variables: the secrets as kept, the addresses as the cluster has them now."""
    endpoint = endpoint_of(shape)
    return {
        "AWS_ACCESS_KEY_ID": kept["AWS_ACCESS_KEY_ID"],
        "AWS_SECRET_ACCESS_KEY": kept["AWS_SECRET_ACCESS_KEY"],
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_DEFAULT_REGION": REGION,
        "ST_AUTH": f"{endpoint}/auth/v1.0",
        "ST_USER": f"{FIRST_PROJECT}:{FIRST_USER}",
        "ST_KEY": kept["ST_KEY"],
    }


def endpoint_of(shape: Shape) -> str:
    """Where clients on this machine find the cluster."""
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(shape.host, shape.host)
    return f"http://[{host}]:{shape.port}" if ":" in host else f"http://{host}:{shape.port}"


def render_exports(values: Mapping[str, str]) -> str:
    """As a shell file to be sourced."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())


def parse_exports(text: str) -> dict[str, str]:
    """What `render_exports` wrote; lines that are something else are passed over."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            words = shlex.split(line, comments=True)
            if len(words) == 2 and words[0] == "export" and "=" in words[1]:
                name, _, value = words[1].partition("=")
                values[name] = value
    return values


# -------------------------------------------------------------------------------------------------------- lock and port


@contextlib.contextmanager
def _lock(directory: DataDirectory) -> Iterator[None]:
    """Hold the directory against a second supervisor. The kernel lets go of it when this process ends, however it ends."""
    try:
        directory.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(directory.run_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RingsteadError(f"{directory.run_dir}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            raise AlreadyRunning(f"{directory.path} is in use: `ringstead up` runs there as process {owner}") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _check_port(shape: Shape) -> None:
    try:
        free = is_port_free(shape.host, shape.port)
    except OSError as error:
        raise ClusterBusy(f"cannot listen at {shape.host}:{shape.port}: {error.strerror or error}") from error
    if not free:
        raise ClusterBusy(f"port {shape.port} is in use by another program; --port chooses another")


# -------------------------------------------------------------------------------------------------------------- control


def _operations(
    supervisor: Supervisor, directory: DataDirectory, shape: Shape, stop: Stop
) -> dict[str, Callable[[Mapping[str, Any]], Any]]:
    """What the supervisor's control socket offers."""

    async def status(_: Mapping[str, Any]) -> Answer:
        return {
            "pid": os.getpid(),
            "stopping": stop.asked,
            "services": [asdict(service.status()) for service in supervisor.services.values()],
        }

    async def wait(request: Mapping[str, Any]) -> Answer:
        with trio.move_on_after(float(request.get("within_s", 30.0))) as scope:
            await supervisor.until_ready()
        return {**await status(request), "ready": not scope.cancelled_caught}

    async def send(request: Mapping[str, Any]) -> Answer:
        service = supervisor.services[str(request["name"])]
        service.send(signal.Signals[str(request.get("signal", "SIGTERM"))])
        return await status(request)

    async def hold(request: Mapping[str, Any]) -> Answer:
        service = supervisor.services[str(request["name"])]
        service.hold(signal.Signals[str(request.get("signal", "SIGTERM"))])
        await service.until_down()
        return await status(request)

    async def release(request: Mapping[str, Any]) -> Answer:
        service = supervisor.services[str(request["name"])]
        service.release()
        with trio.move_on_after(float(request.get("within_s", 30.0))):
            await service.until_ready()
        return await status(request)

    async def refresh(request: Mapping[str, Any]) -> Answer:
        """Start services whose settings are there and that do not run yet; wait for them."""
        await supervisor.adopt(service_specs(directory, shape))
        return await wait(request)

    return {"status": status, "wait": wait, "send": send, "hold": hold, "release": release, "refresh": refresh}
