"""All pools of one process, and what concerns more than one of them: who sent whom, and hosts that die."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.xen.simulator.allowed import refresh
from scheduler.xen.simulator.database import Row
from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.pool import Pool


class Site:
    """Several pools."""

    def __init__(self, pools: Sequence[Pool]) -> None:
        self.pools = tuple(pools)
        self.hung: set[str] = set()
        """References of hosts that take connections and never answer."""
        for pool in pools:
            for host in pool.database.all("host", sorted(pool.dead)):
                self._notice_death(pool, host)

    def run_due(self, now: float) -> None:
        """Resume all operations of all pools whose time has come, in the order of their times."""
        while True:
            due = [(time, pool) for pool in self.pools if (time := pool.jobs.next_due()) is not None and time <= now]
            if not due:
                break
            time, pool = min(due, key=lambda each: each[0])
            pool.jobs.run_due(time)
        for pool in self.pools:
            pool.jobs.run_due(now)
        self.refresh()

    def refresh(self) -> None:
        """Bring `allowed_operations` up to date everywhere: an operation of one pool may have changed another."""
        for pool in self.pools:
            refresh(pool)

    def next_due(self) -> float | None:
        """When the next operation of any pool is due."""
        return min((time for pool in self.pools if (time := pool.jobs.next_due()) is not None), default=None)

    def pool_of_session(self, session: str) -> Pool | None:
        """The pool that a session is with."""
        for pool in self.pools:
            if pool.database.find("session", session) is not None:
                return pool
        return None

    def find_host(self, name: str) -> tuple[Pool, Row] | None:
        """A host by its UUID, name or address."""
        for pool in self.pools:
            for host in pool.database.rows("host"):
                if name in (host.uuid, host["name_label"], host["address"], host.ref):
                    return pool, host
        return None

    def kill(self, pool: Pool, host: Row) -> None:
        """A host dies with all that runs on it. Its pool goes on calling it live for a while."""
        if host.ref in pool.dead:
            return
        pool.dead.add(host.ref)
        self._fail_work(host)
        self._notice_death(pool, host)

    def _notice_death(self, pool: Pool, host: Row) -> None:
        """Have the pool call a dead host dead when the lag is over."""

        def notice() -> None:
            if host.ref in pool.dead:
                metrics = pool.database.find("host_metrics", host["metrics"])
                if metrics is not None:
                    pool.database.set(metrics, live=False)

        pool.later(pool.live_lag_s, notice)

    def _fail_work(self, host: Row) -> None:
        for each in self.pools:
            each.jobs.fail_on(host.ref, Failure("CANNOT_CONTACT_HOST", host.ref))
        self.refresh()

    def hang(self, host: Row) -> None:
        """A host stops answering, without dying."""
        self.hung.add(host.ref)

    def revive(self, pool: Pool, host: Row) -> None:
        """A host is back. After a death it has booted anew: nothing runs on it."""
        from scheduler.xen.simulator import guest

        self.hung.discard(host.ref)
        if host.ref not in pool.dead:
            return
        pool.dead.discard(host.ref)
        for vm in pool.database.all("VM", host["resident_VMs"]):
            if not vm["is_control_domain"]:
                guest.halt(pool, vm)
        metrics = pool.database.get("host_metrics", host["metrics"])
        pool.database.set(metrics, live=True, last_updated=pool.now())
        pool.database.set(host, enabled=True)
        self.refresh()
