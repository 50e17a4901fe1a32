"""Messages about the pool as a whole."""

from __future__ import annotations

from scheduler.xen.simulator.database import Row
from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.messages import message
from scheduler.xen.simulator.pool import Call


@message("pool.sync_database() -> void")
def sync_database(call: Call) -> None:
    """Write the records to all hosts, which is done anyhow."""


@message("pool.designate_new_master(host: host ref) -> void")
def designate_new_master(call: Call, host: Row) -> None:
    """Another host answers for the pool from now on; sessions end with the old one."""
    call.pool.reach(host)
    if host is call.pool.master:
        return
    call.pool.promote(host)


@message("pool.recover_slaves() -> host ref set")
def recover_slaves(call: Call) -> list[Row]:
    """The hosts that were told of a new master: they all know."""
    return [host for host in call.database.rows("host") if host is not call.pool.master]


@message("pool.get_license_state(self: pool ref) -> (string -> string) map")
def get_license_state(call: Call, pool: Row) -> dict[str, str]:
    """Nothing here is licensed."""
    return {"edition": "xcp-ng", "expiry": "never"}


@message("pool.certificate_list() -> string set")
def certificate_list(call: Call) -> list[str]:
    """No certificate was installed."""
    return []


@message("pool.ha_failover_plan_exists(n: int) -> bool", asynchronous=False)
def ha_failover_plan_exists(call: Call, count: int) -> bool:
    """High availability is not served."""
    raise Failure("HA_NOT_ENABLED")
