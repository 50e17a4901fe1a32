"""The settings of both ends of the wire: every default is good enough to start with."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How much a storage server takes on."""

    connections_max: int = 4096
    """Connections that have proved themselves; more are told to come back later."""
    strangers_max: int = 256
    """Connections in their handshake; more are closed unheard."""
    unsent_bytes_max: int = 8 * MIB
    """Answers that one connection may leave untaken before nothing more is read from it."""
    pending_operations_max: int = 16_384
    """Writes that wait for a device's next commit; more are answered BUSY."""
    pending_bytes_max: int = 64 * MIB
    """The same, in bytes of object data."""
    batch_operations_max: int = 2048
    """Writes of one commit."""
    batch_bytes_max: int = 16 * MIB
    """Object data of one commit."""
    inline_s_max: float = 0.002
    """A device whose syncs take less on average is waited for in place, since handing the wait to a thread
    costs a good part of that; a slower one is waited for in a thread."""
    inline_write_s_max: float = 0.005
    """The same for one chunk of a bulk transfer on its way to the page cache."""
    stall_s_max: float = 2.0
    """While a sync has been running for longer than this, writes are answered BUSY at once."""
    silence_s_max: float = 60.0
    """A connection on which nothing came for so long is closed (clients ping every few seconds)."""
    transfer_stall_s_max: float = 30.0
    """A bulk transfer that does not move for so long is cut off, and a peer that takes no answers as well."""
    drain_s_max: float = 5.0
    """At an orderly close: time for what was accepted to be committed and answered."""


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """How a client treats one device."""

    in_flight_max: int = 8192
    """Requests that wait for an answer; more are answered BUSY."""
    in_flight_bytes_max: int = 64 * MIB
    """The same, in bytes."""
    connect_timeout_s: float = 2.0
    """For connecting and the handshake."""
    retry_s_min: float = 0.05
    """First delay before connecting again; doubled each time, and multiplied with a random factor of 0.5..1."""
    retry_s_max: float = 2.0
    """Longest such delay."""
    ping_s: float = 5.0
    """A connection on which nothing came for so long is pinged, ..."""
    ping_timeout_s: float = 2.0
    """... and suspected if the answer takes longer than this."""
    hang_s: float = 2.5
    """A device from which nothing at all is heard for so long while requests wait hangs: it is suspected, and they are not
    waited for any longer. Half-way it is pinged, so that one that is only slow to sync says that it lives."""
    suspect_s_max: float = 10.0
    """A suspected connection that stays silent is given up after this, and made anew."""
    bulk_connections_max: int = 16
    """Transfers at once; more wait for one of these to end."""
    bulk_idle_s: float = 10.0
    """How long a bulk connection is kept for the next transfer."""
    bulk_stall_s: float = 30.0
    """A transfer that does not move for so long has failed."""
    bulk_commit_timeout_s: float = 60.0
    """For the server to sync what was sent."""
