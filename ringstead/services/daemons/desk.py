"""The desk of a node's daemons: keeps each of them running, tells what they do, and passes on what operators want.

Problem: five daemons share a process. One that fails (a bug that certain data brings out) must not take the others with it,
nor disappear in silence; and what an operator asks of one must hold now and after a restart.

Idea: a task for each daemon, which begins it again when it raises, less and less often if it goes on raising, and counts
that. The desk's operations (control socket) and the metrics are made of what every `Daemon` tells of itself, so that
nothing here knows what any of them does.

Order of a change: first kept on disk, then applied. A change that could not be kept is refused and has no effect.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog
import trio

from replicator.daemon import Daemon
from ringstead.processes.control import Answer, Operation, Refused
from ringstead.processes.restart import RestartPolicy
from ringstead.services.daemons.state import DaemonState, Wish

FAILING_S: Final = 600.0
"""A daemon that has failed within this time is called failing."""

log = structlog.get_logger("ringstead.daemons")


class Desk:
    """The daemons of one process. `run` keeps them going."""

    def __init__(self, daemons: Sequence[Daemon], state: DaemonState) -> None:
        self.daemons = {daemon.name: daemon for daemon in daemons}
        self._state = state
        self._settings = {daemon.name: {rate.name: rate.get() for rate in daemon.rates} for daemon in daemons}
        self.failures = dict.fromkeys(self.daemons, 0)
        """How often each has ended with an error, since the start."""
        self.last_failure = dict.fromkeys(self.daemons, "")
        self._failed_at_s: dict[str, float] = {}
        for daemon in daemons:
            self._apply(daemon, state.of(daemon.name))

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep all of them running until cancelled."""
        async with trio.open_nursery() as nursery:
            for daemon in self.daemons.values():
                nursery.start_soon(self._keep_running, daemon)
            task_status.started()

    async def _keep_running(self, daemon: Daemon) -> None:
        policy = RestartPolicy()
        while True:
            began_s = trio.current_time()
            try:
                await daemon.run()
            except Exception as error:
                self.failures[daemon.name] += 1
                self.last_failure[daemon.name] = f"{type(error).__name__}: {error}"
                self._failed_at_s[daemon.name] = trio.current_time()
                log.exception("a daemon failed and will be begun again", daemon=daemon.name)
            await trio.sleep(policy.delay_s(trio.current_time() - began_s))

    # --------------------------------------------------------------------------------------------------------- operations

    def operations(self) -> dict[str, Operation]:
        """What the control socket offers."""

        async def status(_: Mapping[str, Any]) -> Answer:
            return {"daemons": {name: self.describe(name) for name in self.daemons}}

        async def change(request: Mapping[str, Any]) -> Answer:
            return self.change(str(request["name"]), paused=request.get("paused"), rates=dict(request.get("rates", {})))

        return {"status": status, "change": change}

    def describe(self, name: str) -> dict[str, Any]:
        """One daemon: what it is for, its statistics, its rates. To be called inside trio."""
        daemon = self.daemons[name]
        kept = self._state.of(name).rates
        return {
            "text": daemon.text,
            "waits": daemon.waits,
            "statistics": daemon.statistics()._asdict(),
            "rates": {
                rate.name: {
                    "text": rate.text,
                    "value": rate.get(),
                    "setting": self._settings[name][rate.name],
                    "kept": rate.name in kept,
                }
                for rate in daemon.rates
            },
            "failures": self.failures[name],
            "last_failure": self.last_failure[name],
            "failing": trio.current_time() - self._failed_at_s.get(name, -FAILING_S) < FAILING_S,
        }

    def change(self, name: str, *, paused: bool | None = None, rates: Mapping[str, float | None] = {}) -> Answer:
        """Do as an operator wants; a rate of None goes back to the settings', and all do
        if none is named. -> the daemon, described.

        Raises Refused for what makes no sense; nothing has changed then.
        """
        daemon = self.daemons.get(name)
        if daemon is None:
            raise Refused(f"there is no daemon {name!r}; there are {', '.join(self.daemons)}")
        wish = self._state.of(name)
        kept = dict(wish.rates)
        for asked, value in rates.items():
            try:
                rate = daemon.rate(asked)
                if value is not None:
                    daemon.check_rate(value)
            except ValueError as error:
                raise Refused(str(error)) from error
            kept.pop(rate.name, None)
            if value is None and not asked:
                kept.clear()
            elif value is not None:
                kept[rate.name] = float(value)
        wish = dataclasses.replace(wish, paused=wish.paused if paused is None else bool(paused), rates=kept)
        try:
            self._state.keep(name, wish)
        except OSError as error:
            raise Refused(f"this could not be kept, so nothing was changed: {error}") from error
        self._apply(daemon, wish)
        log.info("told by an operator", daemon=name, paused=wish.paused, rates=wish.rates)
        return self.describe(name)

    def _apply(self, daemon: Daemon, wish: Wish) -> None:
        for rate in daemon.rates:
            value = wish.rates.get(rate.name, self._settings[daemon.name][rate.name])
            if value != rate.get():
                rate.set(value)
        (daemon.pause if wish.paused else daemon.resume)()
