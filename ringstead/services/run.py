"""Each service, built from its settings: what is opened, in which order, and when it counts as ready.

Problem: ten processes run on a small machine, and a device's process needs neither numpy nor an HTTP parser.

Idea: one function a service, that imports what it needs and no more; `run_service` does what all of them share: die with
the supervisor, logs, signals, the garbage collector, the control socket. A failure that has an explanation ends in one
line on standard error (which the supervisor shows) and in the log; one that has none is logged with its trace-back.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ringstead.errors import RingsteadError
from ringstead.processes import logs
from ringstead.processes.life import (
    Stop,
    one_failure,
    run_until_stopped,
    settle,
    take_ready_pipe,
    tie_to_supervisor,
)
from ringstead.settings.config import ControllerConfig, DaemonsConfig, ProxyConfig, ServiceConfig, StorageConfig

Ready = Callable[[], None]


def run_service(config: ServiceConfig) -> int:
    """Run one service until it is told to stop; -> the exit code."""
    tie_to_supervisor()
    ready = take_ready_pipe()
    logs.set_up(config.title, config.log_level, config.log_file, config.log_file_bytes_max)
    import structlog

    log = structlog.get_logger("ringstead.services")
    log.info("starting")
    main = _SERVICES[config.service]

    def announce() -> None:
        settle()
        log.info("ready")
        ready()

    try:
        with one_failure():
            run_until_stopped(lambda stop: main(config, stop, announce))
    except RingsteadError as error:
        log.error("service ends", reason=str(error))
        print(f"ringstead: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        log.exception("service failed")
        print(f"ringstead: {config.title} failed: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    log.info("stopped")
    return 0


def _load_storage() -> None:
    logs.load_structlog()
    import ringstead.services.storage.service
    import ringstead.settings.config_file  # noqa: F401


def _load_others() -> None:
    """All but what parses HTTP, which is the proxies' alone."""
    _load_storage()
    import proxy.metrics
    import proxy.s3.app
    import proxy.swift.app  # noqa: F401
    import ringstead.services.daemons.service  # noqa: F401


LOADS: Mapping[str, Callable[[], None]] = {"storage": _load_storage, "daemons": _load_others, "proxy": _load_others}
"""For who forks services: imports what one of that kind needs, opens nothing and starts no thread."""


# --------------------------------------------------------------------------------------------------------------- storage


async def _run_storage(config: StorageConfig, stop: Stop, ready: Ready) -> None:
    from ringstead.services.storage.service import run_storage

    await run_storage(config, stop, ready)


# ----------------------------------------------------------------------------------------------------------------- proxy


async def _run_proxy(config: ProxyConfig, stop: Stop, ready: Ready) -> None:
    from ringstead.services.proxy import run_proxy

    await run_proxy(config, stop, ready)


# --------------------------------------------------------------------------------------------------------------- daemons


async def _run_daemons(config: DaemonsConfig, stop: Stop, ready: Ready) -> None:
    from ringstead.services.daemons.service import run_daemons

    await run_daemons(config, stop, ready)


# ------------------------------------------------------------------------------------------------------------ controller


async def _run_controller(config: ControllerConfig, stop: Stop, ready: Ready) -> None:
    from ringstead.services.controller.service import run_controller

    await run_controller(config, stop, ready)


_SERVICES: dict[str, Callable[[Any, Stop, Ready], Awaitable[None]]] = {
    "controller": _run_controller,
    "daemons": _run_daemons,
    "proxy": _run_proxy,
    "storage": _run_storage,
}
