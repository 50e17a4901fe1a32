"""What a history knows: a cloud, schedulers that look at it, and a model of what is claimed."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine

from scheduler.booking import Booking
from scheduler.claims.claim import Batch, Claim, Quota, Role
from scheduler.placement.inventory import Inventory
from scheduler.placement.request import ServerRequest
from scheduler.placement.resources import Host, Sr
from scheduler.placement.settings import PlacementSettings
from tests.scheduler.claims.naive import NaiveClaims

SEED = 3
SCHEDULERS = 3
SERVER_IDS = st.sampled_from([f"s{number}" for number in range(12)])
WHICH = st.integers(0, SCHEDULERS - 1)


class World(RuleBasedStateMachine):
    """The state of a history, for the classes that each add some of what can happen."""

    reached: ClassVar[Counter[str]] = Counter()
    """How often a commit was refused, by the word of the rule; over all histories of a run."""

    hosts: list[Host]
    srs: list[Sr]
    quota: Quota
    """Of project red; blue has none."""
    claims: tuple
    """As each of the schedulers sees them."""
    schedulers: list[Booking]
    model: dict[str, list[Claim]]
    """What each owner holds, the held claim first."""
    committed: dict[str, Batch]
    """What was claimed first under each key."""
    requests: dict[str, ServerRequest]
    """What each server that was placed had asked for."""
    keys: dict[str, tuple[int, object, Role, tuple[Claim, ...]]]
    """(scheduler, request, role, claims) of each request that was booked, by key."""
    knows_limits: list[bool]
    """Whether a scheduler saw the last change of every host and SR."""
    key_count: int

    def new_scheduler(self, number: int) -> Booking:
        """A scheduler with a fresh picture."""
        inventory = Inventory(self.hosts, self.srs, seed=SEED)
        booking = Booking(inventory, self.claims[number], PlacementSettings(), seed=number)
        booking.read()
        return booking

    def new_key(self) -> str:
        """An idempotency key that nobody used."""
        self.key_count += 1
        return f"key-{self.key_count}"

    def naive_claims(self) -> NaiveClaims:
        """What is claimed now, by the model."""
        return NaiveClaims(self.model, self.hosts, self.srs, {"red": self.quota})

    def note(self, claims: tuple[Claim, ...]) -> None:
        """These were claimed."""
        for claim in claims:
            self.model.setdefault(claim.owner, []).append(claim)

    def wrong_sums(self) -> list[str]:
        """What the claims' own sums have wrong."""
        return []

    def read(self, which: int) -> None:
        """A new picture for a scheduler."""
        self.schedulers[which] = self.new_scheduler(which)
        self.knows_limits[which] = True
