"""The control interface: faults to order. JSON under `/_sim/`, at every host's address, dead ones included.

No part of XenAPI, and without a login: who reaches the simulator may break it. docs/xensim.md lists what there is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import orjson

from scheduler.xen.simulator.faults import BadFault
from scheduler.xen.simulator.http import Exchange, Refused
from scheduler.xen.simulator.pool import Pool
from scheduler.xen.simulator.site import Site

if TYPE_CHECKING:
    from scheduler.xen.simulator.server import Server

PREFIX: Final = "/_sim"
_SETTINGS: Final = frozenset({"latency", "live_lag_s"})


async def handle(site: Site, server: Server, exchange: Exchange) -> None:
    """Answer a request below the prefix. Raises Refused."""
    parts = [part for part in exchange.path.removeprefix(PREFIX).split("/") if part]
    wish = await _wish(exchange)
    result = _route(site, exchange.method, parts, wish)
    server.settle()
    await exchange.answer(200, orjson.dumps(result, option=orjson.OPT_APPEND_NEWLINE), "application/json")


async def _wish(exchange: Exchange) -> dict[str, Any]:
    body = await exchange.whole_body()
    if not body:
        return {}
    try:
        wish = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refused(400, f"not JSON: {error}") from None
    if not isinstance(wish, dict):
        raise Refused(400, "a JSON object is expected")
    return wish


def _route(site: Site, method: str, parts: list[str], wish: dict[str, Any]) -> Any:
    match method, parts:
        case "GET", []:
            return describe(site)
        case "GET", ["faults"]:
            return _faults(site)
        case "POST", ["faults"]:
            return _order(site, wish)
        case "DELETE", ["faults", *rest]:
            return {"removed": sum(pool.faults.cancel(_number(rest)) for pool in site.pools)}
        case "POST", ["hosts", name, "kill" | "hang" | "revive" | "promote" as what]:
            return _to_host(site, name, what)
        case "POST", ["events", "lose"]:
            for pool in _pools(site, wish.get("pool")):
                pool.database.forget_changes()
            return {"lost": True}
        case "POST", ["settings"]:
            return _set(site, wish)
    raise Refused(404, f"nothing at {method} {PREFIX}/{'/'.join(parts)}")


def describe(site: Site) -> dict[str, Any]:
    """The pools and hosts that there are."""
    return {
        "pools": [
            {
                "name": pool.name,
                "uuid": pool.row.uuid,
                "latency": pool.latencies.factor,
                "live_lag_s": pool.live_lag_s,
                "hosts": [
                    {
                        "name": host["name_label"],
                        "uuid": host.uuid,
                        "address": host["address"],
                        "url": pool.url(host),
                        "master": host is pool.master,
                        "state": "dead" if host.ref in pool.dead else "hung" if host.ref in site.hung else "up",
                        "live": pool.is_live(host),
                    }
                    for host in pool.database.rows("host")
                ],
            }
            for pool in site.pools
        ]
    }


def _faults(site: Site) -> list[dict[str, Any]]:
    return [{"pool": pool.name, **rule.as_dict()} for pool in site.pools for rule in pool.faults.rules]


def _pools(site: Site, name: Any) -> list[Pool]:
    if name is None:
        return list(site.pools)
    found = [pool for pool in site.pools if name in (pool.name, pool.row.uuid)]
    if not found:
        raise Refused(404, f"no pool is called {name!r}; there are {', '.join(pool.name for pool in site.pools)}")
    return found


def _order(site: Site, wish: dict[str, Any]) -> Any:
    pools = _pools(site, wish.pop("pool", None))
    try:
        return [{"pool": pool.name, **pool.faults.order(wish).as_dict()} for pool in pools]
    except BadFault as error:
        raise Refused(400, str(error)) from None


def _number(rest: list[str]) -> int | None:
    if not rest:
        return None
    if len(rest) > 1 or not rest[0].isdecimal():
        raise Refused(404, "faults have numbers")
    return int(rest[0])


def _to_host(site: Site, name: str, what: str) -> Any:
    found = site.find_host(name)
    if found is None:
        raise Refused(404, f"no host has the UUID, name or address {name!r}")
    pool, host = found
    acts: dict[str, Callable[[], None]] = {
        "kill": lambda: site.kill(pool, host),
        "hang": lambda: site.hang(host),
        "revive": lambda: site.revive(pool, host),
        "promote": lambda: pool.promote(host),
    }
    acts[what]()
    return {"host": host["name_label"], "done": what}


def _set(site: Site, wish: dict[str, Any]) -> Any:
    pools = _pools(site, wish.pop("pool", None))
    if unknown := set(wish) - _SETTINGS:
        raise Refused(400, f"unknown settings {sorted(unknown)}; there are {sorted(_SETTINGS)}")
    for name, value in wish.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
            raise Refused(400, f'"{name}" is a number, 0 or more')
    for pool in pools:
        if "latency" in wish:
            pool.latencies = pool.latencies.scaled(float(wish["latency"]))
        if "live_lag_s" in wish:
            pool.live_lag_s = float(wish["live_lag_s"])
    return describe(site)
