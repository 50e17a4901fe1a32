"""The histories against a database, with two who claim at the same moment."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError

from scheduler.claims import write
from scheduler.claims.claim import Batch, Change, Claim
from scheduler.claims.sql import SqlClaims
from scheduler.claims.sums import wrong_sums
from scheduler.errors import ClaimStateError, Conflict, QuotaExceeded
from tests.scheduler.claims.conftest import empty
from tests.scheduler.histories.blind import blind_batches
from tests.scheduler.histories.machine import Histories
from tests.scheduler.histories.world import SCHEDULERS, WHICH


class SqlHistories(Histories):
    """The same against a database, through two engines; and two transactions that want the same rows."""

    engines: tuple[Engine, Engine]
    rival: Batch | None = None
    """What another transaction commits between the next one's reading and its writing."""
    rival_claims: tuple[Claim, ...] = ()
    running: SqlHistories | None = None
    """Of the class: the history in which two claim at once, now."""

    def open_claims(self) -> tuple:
        """Two ways into one empty database."""
        empty(self.engines[0])
        ways = [SqlClaims(engine, lambda: 0.0) for engine in self.engines]
        return tuple(ways[number % 2] for number in range(SCHEDULERS))

    def write_after_rival(self, connection: Connection, *rest) -> Change:
        """In place of `write`: the rival's rows are there first, though they were not when this batch was checked.

        That is how READ COMMITTED would have it. Both are in one transaction here, so where the comparison of generations
        sends this batch back to the beginning, the rival is undone as well.
        """
        if self.rival is not None:
            rival, self.rival = self.rival, None
            try:
                self.rival_claims = self.claims[0]._commit(connection, rival).claims
            except (Conflict, QuotaExceeded, ClaimStateError):
                self.rival_claims = ()
        try:
            return write.write(connection, *rest)
        except (write.Raced, IntegrityError):
            self.reached["raced"] += bool(self.rival_claims)
            self.rival_claims = ()
            raise

    @rule(blind=st.lists(blind_batches(), min_size=2, max_size=6), which=WHICH)
    def claim_blindly(self, blind, which):
        """Two at a time claim at the same moment without looking: both as they checked, or one of them anew."""
        for first, rival in zip(blind[::2], blind[1::2], strict=False):
            self.claim_at_once(first, rival)

    def claim_at_once(self, blind: Batch, rival: Batch) -> None:
        """One such pair."""
        first, self.rival = self.aimed(blind), self.aimed(rival)
        type(self).running = self
        try:
            claims = self.claims[0].commit(first).claims
        except (Conflict, QuotaExceeded, ClaimStateError):
            return
        finally:
            type(self).running = None
            self.note(self.rival_claims)
            self.rival, self.rival_claims = None, ()
        self.note(claims)

    def wrong_sums(self) -> list[str]:
        """What the database has wrong."""
        return wrong_sums(self.engines[1])
