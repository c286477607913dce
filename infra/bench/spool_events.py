"""One node's events by the simulator, into a file: ``python -m infra.bench.spool_events FILE HOURS END_US``.

A process of its own, so that the simulator's memory and CPU are not counted as the spool's. Each event is a pickled
(topic, key, value, header, ts) behind its length (u32, little-endian).
"""

from __future__ import annotations

import pickle
import struct
import sys
import tempfile
from pathlib import Path

from producers.journal import Journal
from producers.simulator import scenario as scenarios
from producers.simulator.simulation import TOPICS, Simulation, producers
from schemas import identity

LANES = ("node-telemetry", "node-counters", "node-events", "inventory")


def main() -> None:
    path, hours, end_us = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    fleet = scenarios.load("colossus1", nodes=3)
    start_us = (end_us - int(hours * 3.6e9)) // 60_000_000 * 60_000_000
    with tempfile.TemporaryDirectory() as folder, path.open("wb") as file:
        journal = Journal.start(Path(folder), fleet.site, producers(fleet), TOPICS)
        simulation = Simulation(fleet, journal, lambda _message: None, ticks=5)
        node = b""
        for message in simulation.generate(start_us, end_us):
            if message.topic == "node-telemetry":
                node = node or message.key
            if message.key == node and message.topic in LANES:
                ts = identity.unpack(message.header).ts
                record = pickle.dumps((message.topic, message.key, message.value, message.header, ts))
                file.write(struct.pack("<I", len(record)) + record)
        journal.close()


if __name__ == "__main__":
    main()
