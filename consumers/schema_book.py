"""Which schema a message's framing names: from the catalogue, or from a registry where one is configured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from consumers.clock import Clock
from consumers.datum import begins_with_header
from consumers.errors import BadMessageError, Reason
from schemas import framing
from schemas.catalogue import Schema

UNKNOWN_MAX = 10_000
"""Ids remembered that nobody knows: whoever makes them up must not fill the memory."""
AskRegistry = Callable[[int], Schema | None]
"""The schema of an id; None when the registry knows none. Raises RegistryUnavailableError when it cannot tell."""


@dataclass(frozen=True, slots=True)
class _Verdict:
    schema: Schema | None
    until: float
    """Monotonic time until which "unknown" is believed."""


class SchemaBook:
    """Schemas by id, asked for once.

    With a registry its ids count and the catalogue's do not: the same number may mean another schema there.
    """

    def __init__(
        self, catalogue: Mapping[int, Schema], ask: AskRegistry | None, clock: Clock, believe_s: float
    ) -> None:
        self._catalogue, self._ask, self._clock, self._believe_s = catalogue, ask, clock, believe_s
        self._verdicts: dict[int, _Verdict] = {}

    def schema(self, value: bytes | None, topic: str) -> Schema:
        """The schema a framed value names.

        BadMessageError when there is none or it belongs to another topic; RegistryUnavailableError when only the
        registry could tell and it does not answer: then the message must wait.
        """
        try:
            identifier = framing.schema_id(value)
        except framing.FramingError as error:
            raise BadMessageError(Reason.FRAMING, str(error)) from None
        schema = self._find(identifier)
        if schema is None:
            where = "the registry" if self._ask else "the catalogue"
            raise BadMessageError(Reason.UNKNOWN_SCHEMA, f"schema id {identifier} is not in {where}")
        if schema.kind.topic != topic:
            detail = f"expected a schema of {topic}, found id {identifier} of {schema.kind.topic}"
            raise BadMessageError(Reason.WRONG_KIND, detail)
        if not begins_with_header(schema):
            detail = f"schema id {identifier} does not begin with the event header and {schema.kind.key}"
            raise BadMessageError(Reason.WRONG_KIND, detail)
        return schema

    def _find(self, identifier: int) -> Schema | None:
        if self._ask is None:
            return self._catalogue.get(identifier)
        now = self._clock.monotonic()
        verdict = self._verdicts.get(identifier)
        if verdict is None or (verdict.schema is None and verdict.until <= now):
            verdict = _Verdict(self._ask(identifier), now + self._believe_s)
            if len(self._verdicts) >= UNKNOWN_MAX:
                self._verdicts = {key: known for key, known in self._verdicts.items() if known.schema is not None}
            self._verdicts[identifier] = verdict
        return verdict.schema
