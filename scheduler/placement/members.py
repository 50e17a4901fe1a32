"""Where servers and the members of server groups are: the part of the picture that policies are decided by.

A server that moves is in two places; a policy asks either for both (nobody may meet it, its move may end either way) or
for the one where it will be in the end (a wish to be near it). So each `Member` keeps the two apart.

Invariants: who has no claim is not in it; a group without members is not in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from scheduler.claims.claim import Claim, Role
from scheduler.placement.request import Policy, ServerRequest


@dataclass(slots=True)
class Member:
    """Where a member of a server group is: host ids, None where it holds none of that role."""

    held: str | None = None
    target: str | None = None

    @property
    def host_ids(self) -> tuple[str, ...]:
        """The hosts that it has a claim on."""
        return tuple(host_id for host_id in (self.held, self.target) if host_id is not None)

    @property
    def settles_on(self) -> str | None:
        """The host that it will be on when all moves are done."""
        return self.target if self.target is not None else self.held


class Members:
    """Where every server is, and every group's members, as far as known."""

    def __init__(self) -> None:
        self.servers: dict[str, Member] = {}
        self.groups: dict[str, dict[str, Member]] = {}

    def copy(self) -> Members:
        """The same, to be changed by itself."""
        twin = Members()
        twin.servers = {name: replace(member) for name, member in self.servers.items()}
        twin.groups = {
            group_id: {name: replace(member) for name, member in members.items()}
            for group_id, members in self.groups.items()
        }
        return twin

    def others(self, request: ServerRequest) -> Mapping[str, Member]:
        """The other members of the request's group, by server id."""
        if request.membership is None:
            return {}
        members = self.groups.get(request.membership.group_id, {})
        if request.server_id not in members:
            return members
        return {server_id: member for server_id, member in members.items() if server_id != request.server_id}

    def load(self, claims: Iterable[Claim]) -> None:
        """Forget all, and take it from here."""
        self.servers.clear()
        self.groups.clear()
        for claim in claims:
            self.note(claim, present=True)

    def note(self, claim: Claim, *, present: bool) -> None:
        """A claim is there, or is no more. Claims of volumes are passed over."""
        if claim.host is None:
            return
        host_id = claim.host.host_id if present else None
        servers = [self.servers]
        if claim.membership is not None:
            servers.append(self.groups.setdefault(claim.membership.group_id, {}))
        for members in servers:
            member = members.get(claim.owner)
            if member is None:
                if not present:
                    continue
                member = members[claim.owner] = Member()
            if claim.role is Role.HELD:
                member.held = host_id
            else:
                member.target = host_id
            if member.held is None and member.target is None:
                del members[claim.owner]
        if claim.membership is not None and not self.groups[claim.membership.group_id]:
            del self.groups[claim.membership.group_id]


def hosts_open_to(policy: Policy, others: Mapping[str, Member]) -> tuple[set[str] | None, set[str]]:
    """(the only hosts that a further member may be on, or None for any; the hosts that it must not be on).

    While a member of an affinity group moves there is no such host: the move may end either way.
    """
    if policy is Policy.ANTI_AFFINITY:
        return None, {host_id for member in others.values() for host_id in member.host_ids}
    if policy is Policy.AFFINITY and others:
        places = {host_id for member in others.values() for host_id in member.host_ids}
        return (places if len(places) == 1 else set()), set()
    return None, set()
