"""One pool as it is now: the picture, the loop that keeps it current, and the probes that say which hosts live.

Verbs look before they act, and what they look at must not be older than they are: `now()` asks the pool for what
changed up to this moment and returns the picture with it. The long poll beside it (`run`) makes that question cheap,
wakes those who wait for tasks, and lets `inventory` answer without a call at all.

Liveness: `host_metrics.live` is the master's heartbeat table and says "live" for up to ten minutes after a host died.
So each host is asked itself, every few seconds, whether it speaks HTTP; two silences in a row, and it is not live. It
is not live either where the master says so. A master that is silent, and was not heard since, is a pool that does not
answer, long before the call that it hangs in runs into its deadline.

Nothing here gives up: a pool that does not answer is asked again, more and more slowly, and `trouble` says what is
the matter meanwhile.
"""

from __future__ import annotations

import http.client
import math
import time
from collections.abc import Iterable

import trio

from scheduler.hypervisor import HypervisorError, Unreachable
from scheduler.xen.connection import HostConnection
from scheduler.xen.errors import EventsLost, NoAnswer, PoolUnreachable
from scheduler.xen.picture import CLASSES, Miscounted, Nonsense, Picture
from scheduler.xen.session import PoolSession, Worker
from scheduler.xen.settings import Address, BadPoolSettings
from scheduler.xen.tags import Record

LONG_POLL_S = 25.0
"""Under the 30 s after which proxies and pools think a silent connection dead."""
RETRY_S_MIN, RETRY_S_MAX = 0.5, 15.0
PROBE_EVERY_S = 3.0
PROBE_S_MAX = 3.0
SILENCES = 2
"""Probes without an answer, one after the other, after which a host is not live."""
MISCOUNTS_MAX = 3
"""Full reads in a row whose counts do not fit: then the pool's counts are not believed."""


class Follower:
    """Keeps a `Picture` of one pool."""

    def __init__(self, session: PoolSession) -> None:
        self._session = session
        self.picture = Picture()
        self.trouble: HypervisorError | None = None
        """Why the picture is not current, if it is not."""
        self._heard_at = -math.inf
        self._following = False
        self._lock = trio.Lock()
        self._news = trio.Event()
        self._miscounts = 0
        self.changes = 0
        """Batches that changed a host or a VM: what was computed from these is stale when it grows."""
        self._silences: dict[str, int] = {}
        self._silent_since: dict[str, float] = {}
        """When the first probe without an answer was begun."""
        self._probed_at = -math.inf
        self._probe_limit = trio.CapacityLimiter(64)

    @property
    def is_current(self) -> bool:
        """Whether events keep the picture: the last answer is no older than a long poll takes."""
        return self._following and self.trouble is None and trio.current_time() - self._heard_at < LONG_POLL_S + 5

    async def now(self) -> Picture:
        """The picture with all that the pool had changed when this was called. Raises Unreachable, Refused."""
        async with self._lock:
            for _ in range(MISCOUNTS_MAX + 2):
                asked_with = self.picture.token
                try:
                    batch = await self._session.call("event.from", list(CLASSES), asked_with, 0.0)
                    if self._take(batch, asked_with):
                        return self.picture
                except EventsLost:
                    self._forget()
        raise NoAnswer(f"pool {self._session.settings.name}: changes faster than it can be read")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow the pool until cancelled; started after the first attempt, well or not. Raises no HypervisorError."""
        self._following = True
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow, task_status)
                nursery.start_soon(self._probe_always)
        finally:
            self._following = False

    async def wait_for_task(self, task: str, seconds: float) -> None:
        """Until the picture has news of a task, at most so long."""
        with trio.move_on_after(seconds):
            known = self.picture.record("task", task)
            while self.picture.record("task", task) is known:
                await self._news.wait()

    def is_live(self, host_ref: str, host: Record) -> bool:
        """Whether a host answers its probes and counts as live at the master."""
        metrics = self.picture.record("host_metrics", str(host.get("metrics")))
        if metrics is not None and metrics.get("live") is False:
            return False
        return self._silences.get(host_ref, 0) < SILENCES

    def check_master(self) -> None:
        """Raises PoolUnreachable if the master has not answered its probes, nor anything else since they began to fail."""
        for pool in self.picture.table("pool").values():
            master = str(pool.get("master"))
            silences = self._silences.get(master, 0)
            if silences >= SILENCES and self._heard_at < self._silent_since[master]:
                host = self.picture.record("host", master) or {}
                who = f"{host.get('name_label')} ({host.get('address')})"
                raise PoolUnreachable(
                    f"pool {self._session.settings.name}: its master {who} is silent: no answer to {silences} probes"
                )

    async def probe_all(self, *, max_age_s: float = 0.0) -> None:
        """Probe each host, unless that was done within `max_age_s`."""
        if trio.current_time() - self._probed_at < max_age_s:
            return
        hosts = dict(self.picture.table("host"))
        for gone in set(self._silences) - set(hosts):
            del self._silences[gone]
            self._silent_since.pop(gone, None)
        async with trio.open_nursery() as nursery:
            for ref, host in hosts.items():
                nursery.start_soon(self._probe, ref, host)
        if hosts:
            self._probed_at = trio.current_time()

    async def answers(self, host: Record) -> bool:
        """Whether a host answers HTTP at its own address, tried twice."""
        try:
            address = self._session.whereabouts.first().beside(str(host.get("address")))
        except BadPoolSettings:
            return False
        return await self._ask(address) or await self._ask(address)

    async def _probe(self, ref: str, host: Record) -> None:
        try:
            address = self._session.whereabouts.first().beside(str(host.get("address")))
        except BadPoolSettings:
            return
        began_at = trio.current_time()
        if await self._ask(address):
            self._silences[ref] = 0
            return
        if not self._silences.get(ref, 0):
            self._silent_since[ref] = began_at
        self._silences[ref] = self._silences.get(ref, 0) + 1

    async def _ask(self, address: Address) -> bool:
        probe = HostConnection(address, self._session.settings, self._session.context, time.monotonic() + PROBE_S_MAX)
        answered = False
        with trio.move_on_after(PROBE_S_MAX + 0.5):
            try:
                answered = await trio.to_thread.run_sync(
                    _speaks_http, probe, abandon_on_cancel=True, limiter=self._probe_limit
                )
            finally:
                probe.abort()
        return answered

    async def _probe_always(self) -> None:
        while True:
            await self.probe_all()
            await trio.sleep(PROBE_EVERY_S)

    async def _follow(self, task_status: trio.TaskStatus[None]) -> None:
        worker: Worker | None = None
        wait_s, started = RETRY_S_MIN, False
        try:
            while True:
                try:
                    asked_with = self.picture.token
                    worker, batch = await self._session.long_poll(
                        worker,
                        "event.from",
                        list(CLASSES),
                        asked_with,
                        LONG_POLL_S if asked_with and self.trouble is None else 0.0,
                        timeout_s=self._session.settings.call_timeout_s + (LONG_POLL_S if asked_with else 0.0),
                    )
                    self._take(batch, asked_with)
                    self.trouble, wait_s = None, RETRY_S_MIN
                except EventsLost:
                    self._forget()
                except HypervisorError as error:
                    worker = None
                    self.trouble = error
                if not started:
                    started = True
                    task_status.started()
                if self.trouble is not None:
                    await trio.sleep(wait_s)
                    wait_s = min(wait_s * 2, RETRY_S_MAX)
        finally:
            if worker is not None:
                with trio.move_on_after(3, shield=True):
                    await self._session.end(worker)

    def _take(self, batch: object, asked_with: str) -> bool:
        """Take a batch in; False if the picture had moved on, or has to be read anew."""
        try:
            changed = self.picture.apply(batch, asked_with)
        except Nonsense as error:
            self._forget()
            raise NoAnswer(f"pool {self._session.settings.name}: {error}") from None
        except Miscounted:
            self._miscounts += 1
            if self._miscounts < MISCOUNTS_MAX:
                self._forget()
                return False
            changed = [(name, ref) for name in ("host", "VM") for ref in self.picture.table(name)]
        else:
            if changed is None:
                return False
            self._miscounts = 0
        self._heard_at = trio.current_time()
        self._announce(changed)
        return True

    def _announce(self, changed: Iterable[tuple[str, str]]) -> None:
        names = {name for name, _ in changed}
        if names & {"host", "host_metrics", "VM"}:
            self.changes += 1
        if "host" in names:
            self._learn_addresses()
        if names:
            self._news.set()
            self._news = trio.Event()

    def _learn_addresses(self) -> None:
        """Where to ask for the way when the master is gone."""
        known = self._session.whereabouts
        for host in self.picture.table("host").values():
            try:
                known.also(known.first().beside(str(host.get("address"))))
            except BadPoolSettings:
                continue

    def _forget(self) -> None:
        self.picture = Picture()


def _speaks_http(connection: HostConnection) -> bool:
    try:
        connection.request("GET", "/", headers={"User-Agent": "ringstead", "Connection": "close"})
        connection.getresponse()
    except (Unreachable, HypervisorError, OSError, http.client.HTTPException, ValueError):
        return False
    finally:
        connection.close()
    return True
