"""A dead letter as a page for a person: what it is, what could be read, which byte is wrong, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from consumers.datum import HeadError, place, read_string, read_varint
from consumers.errors import Reason
from consumers.letters.clock import iso
from consumers.letters.judge import Again, Judge, Verdict, fitting, named_schema
from consumers.letters.letter import Letter
from consumers.letters.replay import Repair, prepare
from consumers.letters.walk import Walk, dump, walk
from schemas import catalogue, identity
from schemas.catalogue import KINDS, Schema
from schemas.framing import PREFIX_BYTES
from schemas.identity import HEADER, IdentityError

FIELDS_SHOWN = 200


class Page:
    """Everything that can be said about one letter."""

    def __init__(self, letter: Letter, judge: Judge) -> None:
        self.letter = letter
        self.schema_id = named_schema(letter.value)
        named = judge.schema(self.schema_id, letter.key.topic) if self.schema_id is not None else None
        self.fits = list(fitting(letter.key.topic, letter.value))
        newest = catalogue.latest(letter.key.topic) if letter.key.topic in KINDS else None
        self.schema: Schema | None = named or (self.fits[-1] if self.fits else newest)
        self.guessed = named is None
        """Whether the schema is not the one that the message names."""
        framed = self.schema is not None and len(letter.value) >= PREFIX_BYTES
        self.walk: Walk | None = walk(self.schema, letter.value) if framed and self.schema else None
        self._by_registry = judge.by_registry
        self.today = self._today(judge)

    def _today(self, judge: Judge) -> Verdict:
        try:
            message: Again = prepare(self.letter, Repair())
        except ValueError as error:
            return Verdict(Reason(self.letter.reason), str(error))
        return judge.verdict(message, strictly=self.letter.reason == Reason.DECODE)

    @property
    def mark(self) -> int | None:
        """The byte to look at."""
        if self.letter.reason == Reason.FRAMING and self.schema_id is None:
            return 0
        return self.walk.stop.at if self.walk and self.walk.stop else None

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        letter, seen = self.letter, self.walk
        return {
            "letter": str(letter.ref),
            "state": letter.state,
            "marked": letter.marked,
            "reason": letter.reason,
            "detail": letter.detail,
            "appended": iso(letter.append_us),
            "schema_id": self.schema_id,
            "read_as": f"{self.schema.definition['name']} v{self.schema.version}" if self.schema else None,
            "fits": [{"id": one.id, "version": one.version} for one in self.fits],
            "key": letter.message_key.decode(errors="replace"),
            "headers": {name: value.hex() for name, value in letter.message_headers()},
            "identity": self._identity(),
            "fields": [asdict(span) for span in seen.spans] if seen else [],
            "wrong": asdict(seen.stop) if seen and seen.stop else None,
            "odd": seen.odd if seen else [],
            "value": letter.value.hex(),
            "today": {"stored": self.today.reason is None, "reason": self.today.reason, "detail": self.today.detail},
            "advice": list(self.advice()),
        }

    def lines(self, *, raw: bool = False) -> Iterator[str]:
        """For people. ``raw``: with the bytes even if none of them is wrong."""
        letter = self.letter
        yield f"{letter.ref}: {letter.reason}" + (f" [{letter.marked}]" if letter.marked else "")
        yield f"  {letter.detail}"
        yield f"  appended {iso(letter.append_us)}, {len(letter.value):,} bytes, key {letter.message_key!r}"
        yield ""
        yield "headers"
        yield f"  {self._header_words()}"
        for name, value in sorted(letter.headers.items()):
            yield f"  {name}: {len(value)} bytes, {value[:24].hex()}{'...' if len(value) > 24 else ''}"
        yield f"  framing: {self._framing_words()}"
        if self.walk is not None and self.schema is not None:
            yield ""
            name = f"{self.schema.definition['name']} v{self.schema.version} (schema id {self.schema.id})"
            yield f"fields read as {name}" + (", which is a guess" if self.guessed else "")
            yield from self._fields(self.walk)
        if letter.value and (raw or self.mark is not None):
            yield ""
            yield "bytes" + (f", [] marks byte {self.mark}" if self.mark is not None else "")
            yield from dump(letter.value, self.mark)
        yield ""
        yield "today " + (
            "it would be stored" if self.today.reason is None else f"it would be refused again: {self._why()}"
        )
        for advice in self.advice():
            yield f"  {advice}"

    def _fields(self, seen: Walk) -> Iterator[str]:
        width = max((len(span.path) for span in seen.spans[:FIELDS_SHOWN]), default=0)
        for span in seen.spans[:FIELDS_SHOWN]:
            yield f"  {span.start:6} {span.path:{width}}  {span.value}"
        if seen.stop is None:
            yield "  the datum is whole: every field can be read, and nothing follows"
            return
        where = f" at {seen.stop.path}" if seen.stop.path else ""
        yield f"> {seen.stop.at:6} WRONG{where}: {seen.stop.why}"
        for odd in seen.odd:
            yield f"  before that, {odd}"
        if self.schema is not None:
            unread = len(self.schema.fields) - len(seen.spans)
            if unread:
                yield f"  {unread} field{'s' * (unread != 1)} of {len(self.schema.fields)} could not be read"

    def _why(self) -> str:
        return f"{self.today.reason}: {self.today.detail}"

    def _header_words(self) -> str:
        who = self._identity()
        if "error" in who:
            return f"identity: {who['error']}" + (
                f" ({self.letter.identity[:32].hex()})" if self.letter.identity else ""
            )
        said = f"producer {who['producer_id']!r} run {who['run_id']} seq {who['seq']} at {iso(who['ts'])}"
        datum = self._datum_identity()
        if datum is not None and datum != (who["producer_id"], who["run_id"], who["seq"], who["ts"]):
            producer, run, seq, ts = datum
            said += f"\n  DIFFERS from the datum: producer {producer!r} run {run} seq {seq} at {iso(ts)}"
        return f"identity: {said}"

    def _identity(self) -> dict[str, Any]:
        try:
            return identity.of_message([(HEADER, self.letter.identity)] if self.letter.identity else [])._asdict()
        except IdentityError as error:
            return {"error": str(error)}

    def _datum_identity(self) -> tuple[str, int, int, int] | None:
        value = self.letter.value
        try:
            _, at = read_string(value, PREFIX_BYTES)
            producer, at = read_string(value, at)
            run, at = read_varint(value, at)
            seq, at = read_varint(value, at)
            ts, at = read_varint(value, at)
            place(value)
        except HeadError:
            return None
        return producer, run, seq, ts

    def _framing_words(self) -> str:
        if self.schema_id is None:
            found = self.letter.value[:5].hex() or "nothing"
            return f"none: expected a zero byte and the schema's id in four more, found {found}"
        known = catalogue.by_id().get(self.schema_id)
        return f"schema id {self.schema_id}" + (
            f", {known.kind.topic} v{known.version}" if known else ", not in the catalogue"
        )

    def advice(self) -> Iterator[str]:
        """What to do."""
        letter = self.letter
        if letter.state != "open":
            return
        if self.today.reason is None:
            yield f"gpufleet dlq replay {letter.ref}"
            return
        if self.fits and self.today.reason in (Reason.UNKNOWN_SCHEMA, Reason.WRONG_KIND, Reason.DECODE):
            best = self.fits[-1]
            yield f"it reads to the last byte as {best.definition['name']} v{best.version}: if its producer meant that,"
            which = "ID (the one the registry gives to it)" if self._by_registry else str(best.id)
            yield f"gpufleet dlq replay {letter.ref} --as-schema {which}"
            return
        if self.today.reason is Reason.IDENTITY and self._datum_identity() is not None and "error" in self._identity():
            yield "the datum itself names who made it:"
            yield f"gpufleet dlq replay {letter.ref} --identity-from-datum"
            return
        yield _ADVICE[self.today.reason]


_ADVICE: dict[Reason, str] = {
    Reason.FRAMING: "not an event of gpufleet's: find who writes to the topic; then gpufleet dlq drop",
    Reason.IDENTITY: "header and datum must name the same event: its producer is broken; then gpufleet dlq drop",
    Reason.UNKNOWN_SCHEMA: "register the schema (gpufleet schema), roll out store and consumers; then replay",
    Reason.DECODE: "damaged bytes: its producer, its memory, a proxy; nothing can be stored of it: gpufleet dlq drop",
    Reason.WRONG_KIND: "a producer writes to the wrong topic; then gpufleet dlq drop",
    Reason.TOO_OLD: "older than consume.past_limit_days; raise it, with retention.raw_days, if it is worth it",
    Reason.IN_FUTURE: "its clock was ahead; once its time has come it can be replayed, with wrong times",
    Reason.TOO_LARGE: "larger than kafka.message_max_bytes; raise it, if the event is sound; then replay",
    Reason.UNSIGNED: "the site wants signatures and it has none: find who sent it (docs/signing.md)",
    Reason.SIGNATURE: "its signature does not fit, or its key is unknown or over (docs/signing.md)",
    Reason.FOREIGN: "somebody wrote for a node or tenant that is not theirs: find out who (docs/signing.md)",
}
