"""Small clouds for tests, made by hand or drawn by Hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from ring.topology import Device
from scheduler.claims.claim import HostLimit, SrLimit
from scheduler.claims.memory import MemoryClaims
from scheduler.placement.inventory import Inventory
from scheduler.placement.request import Disk, Flavor, Membership, Nearness, Policy, ServerRequest
from scheduler.placement.resources import Host, Sr

GIB = 1 << 30
TRAITS = ("avx", "gpu", "nvme")
TYPES = ("ssd", "disk")
IMAGES = ("debian", "fedora")


def host(number: int, *, zone: int = 1, region: int = 1, weight: float = 1.0, pool: str = "", **more) -> Host:
    """A host of 16 GiB and 4 processors, unless it is said otherwise."""
    device = Device(number, region, zone, f"node{number}", 443, f"host{number}", weight, "host")
    return Host(f"h{number}", pool or f"pool-{region}-{zone}", device, **{"memory_mib": 16_384, "pcpus": 4, **more})


def sr(number: int, reach: tuple[int, ...], *, zone: int = 1, region: int = 1, gib: int = 100, **more) -> Sr:
    """An SR of 100 GiB that these hosts reach."""
    device = Device(10_000 + number, region, zone, f"store{number}", 443, f"sr{number}", more.pop("weight", 1.0), "sr")
    ids = frozenset(f"h{index}" for index in reach)
    pool = more.pop("pool", f"pool-{region}-{zone}")
    return Sr(f"sr{number}", pool, device, gib * GIB, ids, shared=more.pop("shared", len(ids) != 1), **more)


def flavor(memory_mib: int = 4096, vcpus: int = 2, **more) -> Flavor:
    """A flavor."""
    return Flavor(f"m{memory_mib}", memory_mib, vcpus, **more)


def claims_of(hosts, srs, now_s=lambda: 0.0, **more) -> MemoryClaims:
    """Claims that know the limits of these hosts and SRs."""
    claims = MemoryClaims(now_s, **more)
    claims.set_limits([HostLimit.of(host) for host in hosts], [SrLimit.of(sr) for sr in srs])
    return claims


SELDOM = st.sampled_from([False] * 9 + [True])
"""True now and then. Not a range of integers, of which Hypothesis likes the ends best."""


def seldom(draw, usual, strategy):
    """What is usual, or now and then something that the strategy draws."""
    return draw(strategy) if draw(SELDOM) else usual


@st.composite
def clouds(draw) -> tuple[list[Host], list[Sr]]:
    """Up to nine hosts and seven SRs, small, so that they fill up and much is in the way."""
    zone_of = draw(st.lists(st.sampled_from([(1, 1), (1, 2), (1, 3), (2, 1)]), min_size=3, max_size=9))
    some = st.frozensets(st.sampled_from(TRAITS))
    hosts = [
        host(
            number,
            region=region,
            zone=zone,
            weight=seldom(draw, draw(st.sampled_from([1.0, 1.0, 2.0])), st.just(0.0)),
            memory_mib=draw(st.sampled_from([6144, 8192, 16_384])),
            reserved_memory_mib=draw(st.sampled_from([0, 1024])),
            pcpus=draw(st.integers(2, 4)),
            vcpu_ratio=draw(st.sampled_from([1.0, 2.0, 4.0])),
            traits=draw(some),
            tags=draw(st.frozensets(st.sampled_from(["gold"]))),
            enabled=not draw(SELDOM),
            maintenance=draw(SELDOM),
            live=not draw(SELDOM),
        )
        for number, (region, zone) in enumerate(zone_of)
    ]
    srs = []
    for number in range(draw(st.integers(3, 8))):
        region, zone = draw(st.sampled_from(zone_of))
        near = [index for index, place in enumerate(zone_of) if place == (region, zone)]
        reach = draw(st.one_of(st.sampled_from(near).map(lambda index: (index,)), st.just(tuple(near))))
        srs.append(
            sr(
                number,
                reach,
                region=region,
                zone=zone,
                gib=draw(st.sampled_from([20, 40, 60])),
                foreign_bytes=draw(st.sampled_from([0, 5 * GIB])),
                thin=draw(st.booleans()),
                over_subscription=draw(st.sampled_from([1.0, 1.5])),
                volume_types=draw(st.frozensets(st.sampled_from(TYPES))),
                image_ids=draw(st.frozensets(st.sampled_from(IMAGES))),
                disk_bytes_max=draw(st.sampled_from([None, None, 15 * GIB])),
                enabled=not draw(SELDOM),
            )
        )
    return hosts, srs


@st.composite
def crowded_clouds(draw) -> tuple[list[Host], list[Sr]]:
    """Two to four hosts and two or three SRs that a few servers fill, nearly all of them open."""
    count = draw(st.integers(2, 4))
    hosts = [
        host(
            number,
            memory_mib=draw(st.sampled_from([2048, 4096])),
            pcpus=2,
            vcpu_ratio=draw(st.sampled_from([1.0, 2.0])),
            enabled=not draw(SELDOM),
        )
        for number in range(count)
    ]
    srs = [
        sr(number, draw(st.sampled_from([tuple(range(count)), (0,), (1,)])), gib=draw(st.sampled_from([4, 10])))
        for number in range(draw(st.integers(2, 3)))
    ]
    return hosts, srs


def requests(hosts: list[Host], srs: list[Sr], server_ids: st.SearchStrategy[str]) -> st.SearchStrategy[ServerRequest]:
    """Requests of every kind that fit a cloud, most of them small."""
    some_trait = st.frozensets(st.sampled_from(TRAITS), max_size=1)
    nothing: frozenset[str] = frozenset()
    host_ids = st.sampled_from([each.host_id for each in hosts])
    groups = st.builds(
        lambda policy, index: Membership(f"g-{policy.value}", policy, index),
        st.sampled_from([*Policy, Policy.ANTI_AFFINITY]),
        st.integers(0, 5),
    )

    @st.composite
    def build(draw) -> ServerRequest:
        server_id = draw(server_ids)
        required = seldom(draw, nothing, some_trait)
        disks = []
        for number in range(draw(st.integers(0, 2))):
            volume = draw(st.booleans())
            disks.append(
                Disk(
                    f"{server_id}-disk{number}",
                    draw(st.sampled_from([2, 5, 8, 16])) * GIB,
                    seldom(draw, None, st.sampled_from(TYPES)),
                    draw(st.sampled_from(Nearness)) if volume else Nearness.HOST,
                    volume,
                    draw(st.sampled_from([None, *IMAGES])),
                    seldom(draw, None, st.sampled_from([each.sr_id for each in srs])),
                    draw(st.booleans()),
                )
            )
        others = st.lists(server_ids.filter(lambda other: other != server_id), max_size=2, unique=True).map(tuple)
        return ServerRequest(
            server_id,
            draw(st.sampled_from(["red", "blue"])),
            flavor(draw(st.sampled_from([512, 2048, 4096])), draw(st.integers(1, 2))),
            seldom(draw, None, st.sampled_from([each.zone for each in hosts])),
            draw(st.one_of(st.none(), groups)),
            seldom(draw, (), others),
            seldom(draw, (), others),
            required,
            seldom(draw, nothing, some_trait) - required,
            seldom(draw, nothing, st.just(frozenset({"gold"}))),
            tuple(disks),
            draw(st.sampled_from([None, *IMAGES])),
            seldom(draw, nothing, st.frozensets(host_ids, max_size=3)),
            seldom(draw, nothing, st.frozensets(host_ids, max_size=2)),
        )

    return build()


def inventory_of(hosts, srs, claims, seed: int = 3) -> Inventory:
    """The picture of these hosts and SRs with all that is claimed."""
    inventory = Inventory(hosts, srs, seed=seed)
    inventory.load(claims.all(), *claims.usage())
    return inventory
