"""What the broker's client has, and how a spool is."""

from __future__ import annotations

from dataclasses import dataclass

from producers.spool.log import Log
from producers.spool.segment import Segment


@dataclass(slots=True)
class Flight:
    """An event that the broker's client has."""

    log: Log
    segment: Segment
    ordinal: int
    row: int
    """Of this run's journal; -1 for an event of an earlier run."""
    size: int
    at: float
    stream: tuple[int, str, str]
    """(run_id, producer_id, topic)"""
    backlog: bool


class Flights:
    """Events on their way, by the ticket that the publisher acknowledges. The caller holds the spool's lock."""

    def __init__(self) -> None:
        self._by_ticket: dict[int, Flight] = {}
        self._tickets = 0
        self.bytes = {False: 0, True: 0}
        """Of live events, and of the backlog."""

    def __len__(self) -> int:
        return len(self._by_ticket)

    def board(self, flight: Flight) -> int:
        """An event is handed to the client; its ticket."""
        self._tickets += 1
        self._by_ticket[self._tickets] = flight
        flight.segment.flying.add(flight.ordinal)
        self.bytes[flight.backlog] += flight.size
        return self._tickets

    def land(self, ticket: int) -> Flight | None:
        """The client is done with an event, or did not take it; None when it was done with before."""
        flight = self._by_ticket.pop(ticket, None)
        if flight is not None:
            flight.segment.flying.discard(flight.ordinal)
            self.bytes[flight.backlog] -= flight.size
        return flight


@dataclass(frozen=True, slots=True)
class Health:
    """How a spool is."""

    bytes: int
    """On disk."""
    events: int
    """Not acknowledged yet."""
    oldest_s: float
    """Age of the oldest of them."""
    link_up: bool
    writable: bool
    thinned: int
    given_up: int
    backlog_bytes: int
    """Of a backlog, sent since the start."""
    backlog_rate: float
    """Bytes per second at which a backlog may be sent now; 0 = there is none."""
