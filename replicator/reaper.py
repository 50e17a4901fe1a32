"""The reaper: removes what deleted accounts held, some time after they were deleted, at a pace.

Problem: deleting an account is one request and may mean a million deletions. They must not compete with clients, must go on
after any crash, and must not begin at once: the delay is what an operator has to notice a mistake.

Idea: the store keeps a list of deleted accounts and knows how to remove one (here: a protocol). Every `interval_s` the node
that holds the first device of that list looks at it, the others only at accounts that are overdue by `takeover_s` and
more: as in the expirer, one works and the next takes over where it is down. What could not be removed is tried again, less
and less often.

Nothing is written down of how far it has come: what is left of an account says that itself.

Invariant: no account is touched before `delay_s` have passed since its deletion, by this node's clock.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import structlog
import trio

from replicator.daemon import Daemon, Rate
from replicator.pace import Pace
from replicator.retries import Retries
from storage_node.timestamp import wall_clock_us

RETRY_FIRST_S: Final = 30.0
RETRY_MAX_S: Final = 3_600.0
FAILING_MAX: Final = 50_000

log = structlog.get_logger("replicator.reaper")


class DeletedAccount(Protocol):
    """One line of the list."""

    @property
    def account(self) -> str:
        """Its name."""

    @property
    def deleted_us(self) -> int:
        """When it was deleted. Microseconds since 1970."""


class Graves(Protocol):
    """The deleted accounts, and how one is removed."""

    def rank(self) -> int | None:
        """Which of the list's devices (0: the first) is here; None: none is."""

    async def graves(self) -> Sequence[Any] | None:
        """All of them (DeletedAccount); None: not to be had now."""

    async def reap(self, grave: Any, take: Callable[[], Awaitable[None]], note: Callable[[int, int], None]) -> bool:
        """Remove one and all that it holds; False: to be tried again.

        `take` is waited for before each deletion, `note` is told of so many objects and containers that are gone.
        """


@dataclass(frozen=True)
class ReaperSettings:
    """When, and how fast."""

    delay_s: float = 86_400.0
    """From an account's deletion to the removal of what it held."""
    interval_s: float = 30.0
    """Between two looks at the list."""
    objects_per_s_max: float = 100.0
    takeover_s: float = 120.0
    """How overdue an account must be before the node of the list's second device sees to it."""


class ReaperStatistics(NamedTuple):
    """What a reaper has done since it started, and what waits."""

    backlog: int
    """Accounts whose delay is over and that are not removed."""
    oldest_s: float
    """How long the first of them has been due."""
    delayed: int
    """Accounts whose delay is not over."""
    accounts: int
    """Removed."""
    containers: int
    objects: int
    failed: int
    """Attempts that have to be repeated."""
    objects_per_s: float
    paused: bool


class Reaper:
    """One node's reaper. `now_us` is the wall clock in microseconds."""

    def __init__(
        self, graves: Graves, settings: ReaperSettings = ReaperSettings(), *, now_us: Callable[[], int] = wall_clock_us
    ) -> None:
        self.settings = settings
        self.pace = Pace(settings.objects_per_s_max)
        self._graves = graves
        self._now_us = now_us
        self._due: dict[str, float] = {}
        """Accounts whose delay is over, and when it was; seconds since 1970."""
        self._delayed = 0
        self._retries: Retries[str] = Retries(RETRY_FIRST_S, RETRY_MAX_S, FAILING_MAX)
        self._accounts = self._containers = self._objects = self._failed = 0

    def statistics(self) -> ReaperStatistics:
        """As of now."""
        now_s = self._now_us() / 1e6
        return ReaperStatistics(
            len(self._due),
            max((now_s - due_s for due_s in self._due.values()), default=0.0),
            self._delayed,
            self._accounts,
            self._containers,
            self._objects,
            self._failed,
            self.pace.rate_per_s,
            self.pace.paused,
        )

    def pause(self) -> None:
        """Remove nothing more until `resume`."""
        self.pace.pause()

    def resume(self) -> None:
        """Go on."""
        self.pace.resume()

    def daemon(self) -> Daemon:
        """As a service runs it."""
        pace = self.pace
        return Daemon(
            "reaper",
            "Removes what deleted accounts held, some time after they were deleted.",
            "deleted accounts whose time has come",
            self.run,
            self.statistics,
            frozenset(("accounts", "containers", "objects", "failed")),
            self.pause,
            self.resume,
            (Rate.of(pace, "objects_per_s", "Objects deleted."),),
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled."""
        task_status.started()
        while True:
            await self.look()
            await trio.sleep(self.settings.interval_s)

    async def look(self) -> None:
        """Remove the accounts whose time has come and that are this node's to see to."""
        rank = self._graves.rank()
        graves = await self._graves.graves() if rank is not None else []
        if rank is None or graves is None:
            return
        now_s = self._now_us() / 1e6
        due = {grave.account: grave.deleted_us / 1e6 + self.settings.delay_s for grave in graves}
        overdue_s = rank * self.settings.takeover_s
        self._due = {account: due_s for account, due_s in due.items() if due_s + overdue_s <= now_s}
        self._delayed = sum(due_s > now_s for due_s in due.values())
        for account in self._retries:
            if account not in self._due:
                self._retries.forget(account)  # another node has removed it
        for grave in graves:
            if grave.account in self._due and self._retries.may_try(grave.account):
                await self._reap(grave)

    async def _reap(self, grave: DeletedAccount) -> None:
        account = grave.account
        if await self._graves.reap(grave, self.pace.take, self._note):
            self._accounts += 1
            self._due.pop(account, None)
            self._retries.forget(account)
            log.info("a deleted account is removed", account=account)
            return
        self._failed += 1
        if self._retries.note(account) == 3:
            log.warning("a deleted account cannot be removed yet", account=account)

    def _note(self, objects: int, containers: int) -> None:
        self._objects += objects
        self._containers += containers
