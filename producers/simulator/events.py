"""Columns by field name into the messages of one slice: identity, key, framing and datum of each node's event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from producers.encode import Message
from producers.journal import Journal
from producers.simulator import varint
from producers.simulator.columns import Arrays, Column, Constant, Scalars, encode, text
from schemas import catalogue, framing

_HEADER = np.dtype(
    [("version", "u1"), ("ticks", "u1"), ("run_id", ">i8"), ("seq", ">i8"), ("ts", ">i8")]  # schemas/identity.py
)


class SliceEncoder:
    """Encodes one topic's events of a fixed list of nodes (each its own producer) with the newest schema.

    ``names`` are the nodes' ids, ``fixed`` maps fields that never change during the run to their encoded bytes, one
    for each node. Fields of neither ``fixed`` nor ``columns`` must be arrays and are sent empty: the nodes do not
    have them.
    """

    def __init__(
        self,
        journal: Journal,
        topic: str,
        names: Sequence[str],
        fixed: Mapping[str, Sequence[bytes]],
        schema_id: int | None = None,
    ) -> None:
        schema = catalogue.latest(topic)
        self._topic, self._run_id, self._journal = topic, journal.run_id, journal
        self._rows = np.array([journal.row(name, topic) for name in names], np.int64)
        self._row_list = self._rows.tolist()
        self._keys = [name.encode() for name in names]
        prefix = framing.prefix(schema.id if schema_id is None else schema_id)
        run = varint.encode(journal.run_id)
        site = text(journal.site)
        self._fields: list[tuple[str, Sequence[bytes] | None]] = []
        start = [prefix + site + text(name) + run for name in names]
        self._fields.append(("", start))
        for field in schema.fields[3:]:
            self._fields.append((field["name"], fixed.get(field["name"])))
        self._arrays = {field["name"] for field in schema.fields if isinstance(field["type"], dict)}

    def encode(
        self,
        chosen: NDArray[np.int64] | None,
        ts: int,
        ticks: int,
        columns: Mapping[str, Column],
        picked: bool = False,
    ) -> list[Message]:
        """One message for each chosen node (positions in the list; None = all) at event time ``ts``.

        ``columns`` hold the values of all nodes of the list, or (``picked``) of those chosen; those not chosen are
        left out and take no number.
        """
        if chosen is not None and not len(chosen):
            return []
        rows = self._rows if chosen is None else self._rows[chosen]
        count = len(rows)
        seqs = self._journal.give_many(rows)
        plan = self._plan(chosen, count, seqs, ts, columns, picked)
        values = encode(plan, count)
        packed = np.empty(count, _HEADER)
        packed["version"], packed["ticks"], packed["run_id"], packed["ts"] = 1, ticks, self._run_id, ts
        packed["seq"] = seqs
        blob, width = packed.tobytes(), _HEADER.itemsize
        every = range(len(self._keys)) if chosen is None else chosen.tolist()
        keys, row_list, topic = self._keys, self._row_list, self._topic
        return [
            Message(topic, keys[at], value, blob[i * width : (i + 1) * width] + keys[at], row_list[at])
            for i, (at, value) in enumerate(zip(every, values, strict=True))
        ]

    def _plan(
        self,
        chosen: NDArray[np.int64] | None,
        count: int,
        seqs: NDArray[np.int64],
        ts: int,
        columns: Mapping[str, Column],
        picked: bool,
    ) -> list[Column]:
        plan: list[Column] = []
        pending: list[Sequence[bytes]] = []
        for name, fixed in self._fields:
            column: Column | None = None
            if name == "seq":
                column = Scalars(seqs)
            elif name == "ts":
                column = Scalars(np.full(count, ts, np.int64))
            elif fixed is None:
                column = columns.get(name)
                if column is None:
                    if name not in self._arrays:
                        raise KeyError(f"an event for {self._topic} needs a value for {name}")
                    column = Scalars(np.zeros(count, np.int64))  # an array's closing zero and nothing before it
                elif chosen is not None and not picked:
                    column = _pick(column, chosen)
            if column is None and fixed is not None:
                pending.append(fixed if chosen is None else [fixed[i] for i in chosen.tolist()])
                continue
            plan += [Constant(parts) for parts in pending]
            pending = []
            if column is not None:
                plan.append(column)
        plan += [Constant(parts) for parts in pending]
        return plan


def _pick(column: Column, chosen: NDArray[np.int64]) -> Column:
    if isinstance(column, Constant):
        return Constant([column.parts[i] for i in chosen.tolist()])
    if isinstance(column, Scalars):
        return Scalars(column.values[chosen])
    return Arrays(column.values[chosen])
