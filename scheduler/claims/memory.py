"""Claims in the memory of one process: for one controller that can read them anew at start, for tests and simulations.

One lock is held for a few microseconds per call, so the rule of `check` is applied to what is so. Nothing survives the
process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

from scheduler.claims.check import Outcome, change, check_batch, check_growth, grown, moved
from scheduler.claims.claim import (
    Batch,
    Change,
    Claim,
    Guard,
    HostLimit,
    HostUsage,
    ProjectUsage,
    Quota,
    Role,
    SrLimit,
    SrUsage,
)
from scheduler.errors import ClaimStateError, KeyReused, KeySpent

_NO_QUOTA = Quota()
_NO_USAGE = ProjectUsage()


class MemoryClaims:
    """Claims in memory; see `Claims`. `now_s` gives the time for the age of idempotency keys."""

    def __init__(self, now_s: Callable[[], float], default_quota: Quota = _NO_QUOTA) -> None:
        self._now_s = now_s
        self._default_quota = default_quota
        self._lock = threading.Lock()
        self._hosts: dict[str, HostUsage] = {}
        self._srs: dict[str, SrUsage] = {}
        self._claims: dict[str, tuple[Claim, ...]] = {}
        self._groups: dict[str, dict[str, None]] = {}
        """Owners by group, in the order in which they came."""
        self._quotas: dict[str, Quota] = {}
        self._projects: dict[str, ProjectUsage] = {}
        self._keys: dict[str, tuple[Batch, float]] = {}
        self._made_by: dict[str, tuple[str, ...]] = {}
        """The keys of an owner's claims, in the order of its claims."""

    # ---------------------------------------------------------------------------------- the view that `check` decides by

    def host(self, host_id: str) -> HostUsage | None:
        """The usage of a host, None if it has no limit."""
        return self._hosts.get(host_id)

    def sr(self, sr_id: str) -> SrUsage | None:
        """The usage of an SR, None if it has no limit."""
        return self._srs.get(sr_id)

    def of(self, owner: str) -> tuple[Claim, ...]:
        """What an owner holds: nothing, one claim, or (moving) two, the held one first."""
        return self._claims.get(owner, ())

    def members(self, group_id: str) -> tuple[Claim, ...]:
        """The claims of a server group, both roles, in the order of owners."""
        return tuple(claim for owner in sorted(self._groups.get(group_id, ())) for claim in self._claims[owner])

    def quota(self, project: str) -> tuple[Quota, ProjectUsage]:
        """What a project may hold and what it does hold."""
        return self._quotas.get(project, self._default_quota), self._projects.get(project, _NO_USAGE)

    # --------------------------------------------------------------------------------------------------------- changes

    def commit(self, batch: Batch, *, guard: Guard | None = None) -> Change:
        """Claim all of the batch, or nothing. See `Claims.commit`."""
        if guard is not None:
            guard(None)
        with self._lock:
            known = self._keys.get(batch.key)
            if known is not None:
                return self._repeat(batch, known[0])
            outcome = check_batch(batch, self)
            for claim in batch.claims:
                before = self._claims.get(claim.owner, ())
                self._claims[claim.owner] = (*before, claim)
                self._made_by[claim.owner] = (*self._made_by.get(claim.owner, ()), batch.key)
                if claim.membership is not None:
                    self._groups.setdefault(claim.membership.group_id, {})[claim.owner] = None
            self._keys[batch.key] = (batch, self._now_s())
            return self._write(outcome, claims=batch.claims)

    def release(self, owners: Iterable[str], *, guard: Guard | None = None) -> Change:
        """Let go of all that these owners hold, at once. See `Claims.release`."""
        if guard is not None:
            guard(None)
        with self._lock:
            gone = [claim for owner in dict.fromkeys(owners) for claim in self._claims.get(owner, ())]
            outcome = change(gone, (), self)
            for claim in gone:
                self._claims.pop(claim.owner, None)
                self._made_by.pop(claim.owner, None)
                if claim.membership is not None:
                    members = self._groups.get(claim.membership.group_id, {})
                    members.pop(claim.owner, None)
                    if not members:
                        self._groups.pop(claim.membership.group_id, None)
            return self._write(outcome, gone=gone)

    def finish_move(self, owners: Iterable[str], *, guard: Guard | None = None) -> Change:
        """Make targets what is held. See `Claims.finish_move`."""
        if guard is not None:
            guard(None)
        with self._lock:
            owners = tuple(dict.fromkeys(owners))
            for owner in owners:
                if owner not in self._claims:
                    raise ClaimStateError(f"{owner} holds nothing")
            moving = [owner for owner in owners if len(self._claims[owner]) == 2]
            gone = [claim for owner in moving for claim in self._claims[owner]]
            come = [moved(*self._claims[owner]) for owner in moving]
            outcome = change(gone, come, self)
            for claim in come:
                self._claims[claim.owner] = (claim,)
                self._made_by[claim.owner] = self._made_by[claim.owner][1:]
            return self._write(outcome, claims=[self._claims[owner][0] for owner in owners], gone=gone)

    def abort_move(self, owners: Iterable[str], *, guard: Guard | None = None) -> Change:
        """Let go of targets. See `Claims.abort_move`."""
        if guard is not None:
            guard(None)
        with self._lock:
            owners = [owner for owner in dict.fromkeys(owners) if owner in self._claims]
            gone = [claim for owner in owners for claim in self._claims[owner] if claim.role is Role.TARGET]
            outcome = change(gone, (), self)
            for claim in gone:
                self._claims[claim.owner] = self._claims[claim.owner][:1]
                self._made_by[claim.owner] = self._made_by[claim.owner][:1]
            return self._write(outcome, claims=[self._claims[owner][0] for owner in owners], gone=gone)

    def grow(self, owner: str, disk_id: str, size_bytes: int, *, guard: Guard | None = None) -> Change:
        """Make a held disk that large. See `Claims.grow`."""
        if guard is not None:
            guard(None)
        with self._lock:
            claims = self._claims.get(owner, ())
            if len(claims) != 1:
                raise ClaimStateError(f"{owner} " + ("is moving; wait for the move" if claims else "holds nothing"))
            new = grown(claims[0], disk_id, size_bytes)
            outcome = check_growth(claims[0], new, self)
            self._claims[owner] = (new,)
            return self._write(outcome, claims=(new,), gone=claims)

    def set_limits(self, hosts: Iterable[HostLimit] = (), srs: Iterable[SrLimit] = ()) -> None:
        """Set limits of hosts and SRs. See `Claims.set_limits`."""
        with self._lock:
            for host in hosts:
                usage = self._hosts.get(host.host_id) or HostUsage(host, 0, 0, 0)
                if usage.limit != host or not usage.generation:
                    self._hosts[host.host_id] = HostUsage(host, usage.memory_mib, usage.vcpus, usage.generation + 1)
            for sr in srs:
                on_sr = self._srs.get(sr.sr_id) or SrUsage(sr, 0, 0)
                if on_sr.limit != sr or not on_sr.generation:
                    self._srs[sr.sr_id] = SrUsage(sr, on_sr.size_bytes, on_sr.generation + 1)

    def remove(self, resource_ids: Iterable[str]) -> None:
        """Forget limits. See `Claims.remove`."""
        ids = tuple(resource_ids)
        self.set_limits(
            [HostLimit(name, 0, 0, is_open=False) for name in ids if name in self._hosts],
            [SrLimit(name, 0, is_open=False) for name in ids if name in self._srs],
        )
        with self._lock:
            for name in ids:
                host, sr = self._hosts.get(name), self._srs.get(name)
                if host is not None and not host.memory_mib and not host.vcpus:
                    del self._hosts[name]
                if sr is not None and not sr.size_bytes:
                    del self._srs[name]

    def set_quota(self, project: str, quota: Quota) -> None:
        """Set what a project may hold."""
        with self._lock:
            self._quotas[project] = quota

    def forget_keys(self, before_s: float) -> int:
        """Forget old idempotency keys that hold nothing. How many."""
        with self._lock:
            used = {key for keys in self._made_by.values() for key in keys}
            old = [key for key, (_, at_s) in self._keys.items() if at_s < before_s and key not in used]
            for key in old:
                del self._keys[key]
            return len(old)

    # ------------------------------------------------------------------------------------------------------- questions

    def made(self, key: str) -> Change | None:
        """What was claimed under an idempotency key. See `Claims.made`."""
        with self._lock:
            known = self._keys.get(key)
            return None if known is None else self._made(known[0])

    def all(self) -> Iterator[Claim]:
        """Every claim, in the order of owners, the held one of an owner first."""
        with self._lock:
            owners = sorted(self._claims.items())
        for _, claims in owners:
            yield from claims

    def usage(self) -> tuple[tuple[HostUsage, ...], tuple[SrUsage, ...]]:
        """What is claimed of every host and SR that has a limit, in the order of ids."""
        with self._lock:
            return (
                tuple(usage for _, usage in sorted(self._hosts.items())),
                tuple(usage for _, usage in sorted(self._srs.items())),
            )

    def usage_of(self, resource_ids: Iterable[str]) -> tuple[tuple[HostUsage, ...], tuple[SrUsage, ...]]:
        """The same, of these hosts and SRs alone."""
        ids = sorted(set(resource_ids))
        with self._lock:
            return (
                tuple(self._hosts[name] for name in ids if name in self._hosts),
                tuple(self._srs[name] for name in ids if name in self._srs),
            )

    # ------------------------------------------------------------------------------------------------------ inner works

    def _repeat(self, batch: Batch, first: Batch) -> Change:
        if batch.asked != first.asked:
            raise KeyReused(f"idempotency key {batch.key} was used for another claim; take a new key")
        return self._made(first)

    def _made(self, batch: Batch) -> Change:
        claims: list[Claim] = []
        for claim in batch.claims:
            made_by = self._made_by.get(claim.owner, ())
            if batch.key not in made_by:
                raise KeySpent(f"what idempotency key {batch.key} claimed for {claim.owner} was released since")
            claims.append(self._claims[claim.owner][made_by.index(batch.key)])
        touched = change((), claims, self)
        return Change(
            tuple(claims),
            (),
            tuple(self._hosts[name] for name in touched.hosts if name in self._hosts),
            tuple(self._srs[name] for name in touched.srs if name in self._srs),
        )

    def _write(self, outcome: Outcome, claims: Iterable[Claim] = (), gone: Iterable[Claim] = ()) -> Change:
        self._hosts.update(outcome.hosts)
        self._srs.update(outcome.srs)
        self._projects.update(outcome.projects)
        return Change(tuple(claims), tuple(gone), tuple(outcome.hosts.values()), tuple(outcome.srs.values()))
