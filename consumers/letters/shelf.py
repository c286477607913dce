"""Where dead letters are kept: the tables dead_letters and dead_letter_marks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from consumers.letters.letter import Asked, Group, Key, Letter, Ref

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

PAGE_BYTES = 32 << 20
PAGE_LETTERS = 1_000
"""What is held of letters at a time."""
GROUPINGS = {"topic": "source_topic", "reason": "reason", "schema": "schema_id", "producer": "source_producer_id"}
"""What letters can be grouped by -> column of dead_letter_states."""
STATES = ("open", "replayed", "dropped")


class Found(NamedTuple):
    """A letter without its bytes."""

    key: Key
    bytes: int
    """Size of its value."""
    state: str
    marked: str


class Shelf:
    """Reads letters and marks them. Errors are the client's."""

    def __init__(self, client: Client, database: str = "gpufleet") -> None:
        self._client, self._database = client, database

    def groups(self, asked: Asked, by: Sequence[str] = ("topic", "reason", "schema"), limit: int = 200) -> list[Group]:
        """Letters counted by what they have in common, the most first."""
        columns = [GROUPINGS[one] for one in by]
        names = "".join(f"{column}, " for column in columns)
        place = "(source_topic, source_partition, source_offset)"
        found = self._rows(
            f"SELECT {names}count(), uniqExactIf(source_producer_id, source_producer_id != ''),"
            " toUnixTimestamp64Micro(min(ts)), toUnixTimestamp64Micro(max(ts)),"
            f" argMax({place}, ts), argMax(detail, ts),"
            f" sumMap(map(state, 1)) FROM {self._database}.dead_letter_states WHERE {{where}}"
            + (f" GROUP BY {', '.join(columns)}" if columns else "")
            + " HAVING count() > 0 ORDER BY count() DESC, max(ts) DESC LIMIT {limit:UInt32}",
            asked,
            limit=limit,
        )
        at = len(columns)
        return [
            Group(
                dict(zip(by, row[:at], strict=True)),
                int(row[at]),
                int(row[at + 1]),
                _moment(row[at + 2]),
                _moment(row[at + 3]),
                Ref(*row[at + 4]),
                str(row[at + 5]),
                {str(state): int(count) for state, count in row[at + 6].items()},
            )
            for row in found
        ]

    def count(self, asked: Asked) -> int:
        """How many letters are meant."""
        return int(self._rows(f"SELECT count() FROM {self._database}.dead_letter_states WHERE {{where}}", asked)[0][0])

    def keys(self, asked: Asked, page: int = PAGE_LETTERS) -> Iterator[list[Found]]:
        """Which letters are meant, oldest first, a bounded number at a time; what arrives meanwhile is left out."""
        newest = f"SELECT toUnixTimestamp64Micro(max(ts)) FROM {self._database}.dead_letter_states WHERE {{where}}"
        (until,) = self._rows(newest, asked)[0]
        last = (-(1 << 62), "", "", 0, 0)
        while True:
            found = self._rows(
                "SELECT site, source_topic, producer_id, run_id, seq, toUnixTimestamp64Micro(ts) AS us, bytes, state,"
                f" toUnixTimestamp64Micro(marked_at), marked_by, why FROM {self._database}.dead_letter_states"
                " WHERE {where} AND us <= {newest:Int64} AND (us, toString(source_topic), producer_id, run_id, seq)"
                " > ({us:Int64}, {t:String}, {p:String}, {r:Int64}, {s:Int64})"
                " ORDER BY us, toString(source_topic), producer_id, run_id, seq LIMIT {page:UInt32}",
                asked,
                **dict(zip(("us", "t", "p", "r", "s"), last, strict=True)),
                newest=int(until),
                page=page,
            )
            if not found:
                return
            yield [_found(row) for row in found]
            _, topic, producer, run, seq, us, *_ = found[-1]
            last = (int(us), str(topic), str(producer), int(run), int(seq))

    def pages(self, asked: Asked) -> Iterator[list[Letter]]:
        """The letters meant with their bytes, oldest first, a bounded number and size at a time."""
        for keys in self.keys(asked):
            page: list[Found] = []
            size = 0
            for one in keys:
                if page and size + one.bytes > PAGE_BYTES:
                    yield self._whole(page)
                    page, size = [], 0
                page.append(one)
                size += one.bytes
            yield self._whole(page)

    def letters(self, asked: Asked) -> Iterator[Letter]:
        """The letters meant, oldest first."""
        for page in self.pages(asked):
            yield from page

    def mark(self, keys: Sequence[Key], mark: str, who: str, why: str) -> None:
        """Note what was decided about letters: replayed, dropped or reopened. The letters stay as they are."""
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        for at in range(0, len(keys), 10_000):
            lines = [
                json.dumps(
                    {
                        "site": key.site, "source_topic": key.topic, "producer_id": key.producer_id,
                        "run_id": key.run_id, "seq": key.seq, "at": now, "mark": mark, "who": who, "why": why,
                    }
                )
                for key in keys[at : at + 10_000]
            ]  # fmt: skip
            self._client.raw_insert(
                f"{self._database}.dead_letter_marks",
                insert_block="\n".join(lines).encode(),
                fmt="JSONEachRow",
                settings={"async_insert": 0},
            )

    def _whole(self, page: Sequence[Found]) -> list[Letter]:
        """The letters of a page with their bytes, in its order. One look-up by the sorting key."""
        marks = {one.key: (one.state, one.marked) for one in page}
        keys = list(marks)
        wanted = ", ".join(
            f"({_quoted(k.site)}, {_quoted(k.topic)}, fromUnixTimestamp64Micro({k.ts_us}, 'UTC'),"
            f" {_quoted(k.producer_id)}, {k.run_id}, {k.seq})"
            for k in keys
        )
        found = self._client.query(
            "SELECT site, source_topic, producer_id, run_id, seq, toUnixTimestamp64Micro(ts), source_topic_id,"
            " source_partition, toUnixTimestamp64Micro(append_ts), toString(reason), detail, schema_id,"
            " hex(key), hex(value), hex(identity), mapKeys(headers), arrayMap(v -> hex(v), mapValues(headers))"
            f" FROM {self._database}.dead_letters FINAL"
            f" WHERE (site, source_topic, ts, producer_id, run_id, seq) IN ({wanted})",
            settings={"max_query_size": 4 << 20},
        ).result_rows
        letters = {}
        for site, topic, producer, run, seq, ts, topic_id, partition, append, reason, detail, schema, *raw in found:
            key = Key(str(site), str(topic), str(producer), int(run), int(seq), int(ts))
            state, marked = marks[key]
            message_key, value, identity = (bytes.fromhex(text) for text in raw[:3])
            headers = {name: bytes.fromhex(text) for name, text in zip(raw[3], raw[4], strict=True)}
            letters[key] = Letter(
                key, str(topic_id), int(partition), int(append), str(reason), str(detail), schema,
                message_key, value, identity, headers, state, marked,
            )  # fmt: skip
        return [letters[key] for key in keys if key in letters]

    def _rows(self, text: str, asked: Asked, **more: Any) -> Sequence[Sequence[Any]]:
        where, values = conditions(asked)
        return self._client.query(text.replace("{where}", where), parameters={**values, **more}).result_rows


def conditions(asked: Asked) -> tuple[str, dict[str, Any]]:
    """What is asked for as a condition on dead_letter_states, with the values of its parameters."""
    parts = ["state IN {states:Array(String)}"]
    values: dict[str, Any] = {"states": list(asked.states)}
    if asked.refs:
        places = []
        for at, ref in enumerate(asked.refs):
            run = f" AND run_id = {{run{at}:Int64}}" if ref.run is not None else ""
            places.append(
                f"(source_topic = {{topic{at}:String}} AND source_partition = {{partition{at}:Int32}}"
                f" AND source_offset = {{offset{at}:Int64}}{run})"
            )
            values |= {f"topic{at}": ref.topic, f"partition{at}": ref.partition, f"offset{at}": ref.offset}
            values |= {f"run{at}": ref.run} if ref.run is not None else {}
        parts.append(f"({' OR '.join(places)})")
    given = [
        ("source_topic", "=", "topic", "String", asked.topic),
        ("reason", "=", "reason", "String", asked.reason),
        ("schema_id", "=", "schema_id", "Int64", asked.schema_id),
        ("source_producer_id", "=", "producer", "String", asked.producer),
    ]
    for column, sign, name, kind, value in given:
        if value is not None:
            parts.append(f"{column} {sign} {{{name}:{kind}}}")
            values[name] = value
    for sign, name, moment in ((">=", "since", asked.since), ("<", "until", asked.until)):
        if moment is not None:
            parts.append(f"ts {sign} fromUnixTimestamp64Micro({{{name}:Int64}}, 'UTC')")
            values[name] = round(moment.timestamp() * 1e6)
    return " AND ".join(parts), values


def _found(row: Sequence[Any]) -> Found:
    site, topic, producer, run, seq, ts, length, state, at, who, why = row
    marked = f"{state} {_moment(at):%Y-%m-%d %H:%M} by {who}: {why}" if state != "open" else ""
    return Found(
        Key(str(site), str(topic), str(producer), int(run), int(seq), int(ts)), int(length), str(state), marked
    )


def _moment(us: Any) -> datetime:
    return datetime.fromtimestamp(int(us) / 1e6, tz=UTC)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
