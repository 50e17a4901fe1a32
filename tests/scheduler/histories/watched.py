"""Claims that know from the plain rule what must become of each commit."""

from __future__ import annotations

from scheduler.claims.claim import Batch, Change, Guard
from scheduler.errors import ClaimStateError, Conflict, KeyReused, KeySpent, QuotaExceeded
from tests.scheduler.claims.naive import QUOTA, STATE, asked
from tests.scheduler.histories.world import World


class Watched:
    """Claims whose commits are held against the plain rule; everything else is passed on."""

    def __init__(self, claims, history: World) -> None:
        self._claims = claims
        self._history = history

    def __getattr__(self, name: str):
        return getattr(self._claims, name)

    def commit(self, batch: Batch, *, guard: Guard | None = None) -> Change:
        """Commit; AssertionError if what becomes of it is not what must."""
        history = self._history
        first = history.committed.get(batch.key)
        if first is not None:
            return self.commit_again(batch, first)
        against = history.naive_claims().against(batch)
        try:
            change = self._claims.commit(batch)
        except (Conflict, QuotaExceeded, ClaimStateError) as error:
            word = error.kind if isinstance(error, Conflict) else QUOTA if isinstance(error, QuotaExceeded) else STATE
            history.reached[word] += 1
            if word not in against:
                raise AssertionError(f"refused for {word}, but only {sorted(against)} is in the way") from error
            raise
        history.committed[batch.key] = batch
        assert not against, f"claimed against {' and '.join(sorted(against))}: {batch}"
        return change

    def commit_again(self, batch: Batch, first: Batch) -> Change:
        """A key that claimed before: it answers as it did, or refuses, and never claims."""
        before = self._claims.usage()
        try:
            change = self._claims.commit(batch)
        except (KeyReused, KeySpent) as error:
            self._history.reached[type(error).__name__] += 1
            if isinstance(error, KeyReused) and asked(batch) == asked(first):
                raise AssertionError(f"key {batch.key} is refused for the same") from error
            raise
        except (Conflict, QuotaExceeded, ClaimStateError) as error:
            raise AssertionError(f"key {batch.key} claimed before and is taken for new: {error}") from error
        finally:
            assert self._claims.usage() == before, f"key {batch.key} claimed twice"
        assert asked(batch) == asked(first), f"key {batch.key} answers for something else"
        self._history.reached["repeated"] += 1
        return change
