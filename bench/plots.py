"""The report's plots: rates and processor time a request, ours beside the peers', as SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

COLOURS: Final = ("#1b6ca8", "#c8553d", "#588157", "#8d6a9f", "#e0a030", "#6b705c")


def draw(report: dict[str, Any], folder: Path) -> list[Path]:
    """Two pictures: rate.svg and cpu.svg. -> their paths."""
    return [
        _bars(report, folder / "rate.svg", "rate_per_s", "requests a second (log scale)"),
        _bars(report, folder / "cpu.svg", "cpu_us", "processor time a request, all processes, us (log scale)"),
    ]


def _bars(report: dict[str, Any], path: Path, figure: str, label: str) -> Path:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    systems = list(report["systems"])
    titles = [title for title, rows in report["workloads"].items() if any(figure in row for row in rows.values())]
    height = 0.8 / max(len(systems), 1)
    picture, axes = pyplot.subplots(figsize=(9, 1 + 0.45 * len(titles)), layout="constrained")
    for index, system in enumerate(systems):
        rows = [report["workloads"][title].get(system, {}) for title in titles]
        places = [number + index * height for number in range(len(titles))]
        values = [row.get(figure, 0.0) for row in rows]
        spread = None
        if figure == "rate_per_s":
            low = [row.get(figure, 0.0) - row.get("rate_min", 0.0) for row in rows]
            high = [row.get("rate_max", 0.0) - row.get(figure, 0.0) for row in rows]
            spread = [low, high]
        axes.barh(
            places, values, height, xerr=spread, label=system, color=COLOURS[index % len(COLOURS)], ecolor="#444444"
        )
    axes.set_yticks([number + 0.4 - height / 2 for number in range(len(titles))], titles)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.3)
    axes.legend()
    picture.savefig(path, metadata={"Date": None})
    pyplot.close(picture)
    return path
