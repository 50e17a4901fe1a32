"""What a run sends: the mix, the draw, each name once."""

from __future__ import annotations

from collections import Counter

from bench.dialects import SwiftDialect
from bench.plan import Plan, make_plan
from bench.systems.base import SwiftAccess
from bench.workloads import GET4K, KIB, PUT4K, SUITES, Workload, names_of

DIALECT = SwiftDialect(SwiftAccess("tk", "/v1/AUTH_a"))


def requests_of(plan: Plan) -> list[tuple[str, str]]:
    """(method, path) of each head."""
    return [tuple(head.decode().split(" ", 2)[:2]) for head in plan.heads]  # type: ignore[misc]


def test_puts_use_each_name_once():
    """A run of PUTs continues where the last one ended and repeats no name."""
    first = requests_of(make_plan(PUT4K, DIALECT, container="c", first=0, count=50))
    second = requests_of(make_plan(PUT4K, DIALECT, container="c", first=50, count=50))
    assert len(set(first + second)) == 100


def test_a_mix_deletes_only_what_it_has_put():
    """Seven of ten are GETs of what is there; a DELETE follows the PUT of its name and comes once."""
    mix = Workload("mix", "MIX", 32, 4 * KIB, names_of("4 KiB"))
    sent = requests_of(make_plan(mix, DIALECT, container="c", first=0, count=1))
    shares = Counter(method for method, _ in sent)
    assert 0.68 < shares["GET"] / len(sent) < 0.72
    put: set[str] = set()
    for method, path in sent:
        if method == "PUT":
            put.add(path)
        elif method == "DELETE":
            put.remove(path)


def test_hot_keys_are_hot():
    """Nine of ten requests go to a hundred names."""
    hot = Workload("hot", "GET", 32, 4 * KIB, names_of("4 KiB"), draw="hot")
    counts = Counter(path for _, path in requests_of(make_plan(hot, DIALECT, container="c", first=0, count=1)))
    most = sum(count for _, count in counts.most_common(100))
    assert 0.88 < most / sum(counts.values()) < 0.95


def test_the_same_seed_gives_the_same_requests():
    """A run can be repeated to the byte."""
    plans = [make_plan(GET4K, DIALECT, container="c", first=0, count=1) for _ in range(2)]
    assert plans[0] == plans[1]


def test_titles_tell_workloads_apart():
    """Results are kept by title: no two workloads of a suite share one."""
    for suite in SUITES.values():
        assert len({workload.title for workload in suite}) == len(suite)
