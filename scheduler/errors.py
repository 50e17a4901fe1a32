"""What can go wrong in the scheduler, flat; each says whose fault it is and what to do next.

They carry the offending values, so that whoever meets one (the command line, a log, a test) need not parse its sentence.
"""

from __future__ import annotations

from collections.abc import Mapping


class SchedulerError(Exception):
    """Anything that the scheduler refuses or fails to do. The message is for people and complete in itself."""


class InventoryError(SchedulerError, ValueError):
    """The caller's: a host or an SR that cannot be, or one that is not in the inventory."""


class RequestError(SchedulerError, ValueError):
    """The caller's: a request that no inventory could ever meet, such as no vCPU or two disks of one id."""


class NoValidHost(SchedulerError):
    """The cloud's: no host can take what was asked for, now. `counts` has hosts by the kind of what is in the way.

    Ask for less, for another zone, or look at the reasons (`ringstead server place --explain`).
    """

    def __init__(self, message: str, counts: Mapping[str, int]) -> None:
        super().__init__(message)
        self.counts = dict(counts)


class NoValidSr(NoValidHost):
    """The cloud's: no SR can take the volume that was asked for, now. `counts` has SRs by what is in the way."""


class Conflict(SchedulerError):
    """Another scheduler's: between choice and commit something changed, and the claim no longer fits. Nothing was claimed.

    kind       what is in the way, in the words of `scheduler.placement.reasons`: `memory`, `sr-space`, `group` and so on
    resource   the host or SR, or the group, that it is about
    retry      whether another host may do; False where no choice of host would help
    """

    def __init__(self, message: str, *, kind: str, resource: str, retry: bool = True) -> None:
        super().__init__(message)
        self.kind = kind
        self.resource = resource
        self.retry = retry


class QuotaExceeded(SchedulerError):
    """The project's: it would have more than its quota allows. Nothing was claimed. Delete something or raise the quota."""

    def __init__(self, message: str, *, project: str, resource: str, limit: int, used: int, asked: int) -> None:
        super().__init__(message)
        self.project = project
        self.resource = resource
        self.limit = limit
        self.used = used
        self.asked = asked


class KeyReused(SchedulerError):
    """The caller's: this idempotency key was used for something else. Nothing was claimed; take a new key."""


class KeySpent(SchedulerError):
    """The caller's: what this idempotency key claimed was released since; a late repetition brings nothing back."""


class ClaimStateError(SchedulerError):
    """The caller's: a step that the claim is not ready for, such as a second move while one is under way."""
