"""Measurements, as `/rrd_updates` gives them: memory as it is, the rest plausible.

XML and JSON, rows newest first, a column for each host's and VM's measure. CPU and traffic figures are drawn from the time
and the object's UUID, so the same question has the same answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

import orjson

from scheduler.xen.simulator import memory
from scheduler.xen.simulator.database import Row
from scheduler.xen.simulator.pool import Pool

STEPS_S: Final = (5, 60, 3600, 86400)
ROWS_MAX: Final = 600


def updates(pool: Pool, host: Row, query: Mapping[str, str]) -> tuple[bytes, str]:
    """(body, content type) for a host's measurements since a time."""
    step = next((step for step in STEPS_S if step >= _number(query.get("interval", "5"), 5)), STEPS_S[-1])
    end = int(pool.clock()) // step * step
    start = max(_number(query.get("start", "0"), 0), end - step * ROWS_MAX)
    columns = _columns(pool, host, query)
    names = list(columns)
    times = list(range(end, start, -step))
    rows = [
        (time, [_drawn(name, time) if (known := columns[name]) is None else known for name in names]) for time in times
    ]
    legend = [f"{query.get('cf', 'AVERAGE')}:{name}" for name in names]
    meta = {"start": times[-1] if times else end, "step": step, "end": end, "rows": len(rows), "columns": len(names)}
    if query.get("json") == "true":
        data = [{"t": time, "values": values} for time, values in rows]
        return orjson.dumps({"meta": {**meta, "legend": legend}, "data": data}), "application/json"
    return _xml(meta, legend, rows), "text/xml"


def _number(text: str, otherwise: int) -> int:
    try:
        return int(text)
    except ValueError:
        return otherwise


def _columns(pool: Pool, host: Row, query: Mapping[str, str]) -> dict[str, float | None]:
    """By name, what is known; None for what is drawn."""
    columns: dict[str, float | None] = {}
    if query.get("host") == "true":
        prefix = f"host:{host.uuid}"
        metrics = pool.database.get("host_metrics", host["metrics"])
        columns[f"{prefix}:memory_total_kib"] = metrics["memory_total"] / 1024
        columns[f"{prefix}:memory_free_kib"] = max(0, memory.free_bytes(pool, host)) / 1024
        columns[f"{prefix}:cpu_avg"] = None
        columns[f"{prefix}:loadavg"] = None
    for vm in pool.database.all("VM", host["resident_VMs"]):
        if query.get("vm_uuid", vm.uuid) != vm.uuid:
            continue
        columns[f"vm:{vm.uuid}:memory"] = float(vm["memory_target"])
        columns |= {f"vm:{vm.uuid}:cpu{number}": None for number in range(vm["VCPUs_at_startup"])}
    return columns


def _drawn(name: str, time: int) -> float:
    """A number from 0 to 0.5 that depends on nothing else."""
    digest = hashlib.blake2b(f"{name}@{time}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") / (1 << 33)


def _xml(meta: Mapping[str, int], legend: list[str], rows: list[tuple[int, list[float]]]) -> bytes:
    parts = ["<xport><meta>", *(f"<{name}>{value}</{name}>" for name, value in meta.items())]
    parts += ["<legend>", *(f"<entry>{entry}</entry>" for entry in legend), "</legend></meta><data>"]
    for time, values in rows:
        parts.append(f"<row><t>{time}</t>{''.join(f'<v>{value!r}</v>' for value in values)}</row>")
    parts.append("</data></xport>")
    return "".join(parts).encode()
