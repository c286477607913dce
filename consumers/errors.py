"""What can go wrong between Kafka and the store, by what can be done about it.

ConsumerError
├── TransientError              trying again may help; nothing is lost meanwhile
│   ├── StoreUnavailableError   no answer, no room, overloaded
│   │   ├── StoreCredentialsError   the store refuses who we are
│   │   └── StoreMemoryError        too much at once: try in smaller pieces
│   ├── KafkaUnavailableError   the broker does not answer
│   ├── RegistryUnavailableError    the schema registry does not answer
│   └── StalledError            this process stood still so long that it may have lost its partitions
├── TableBehindError            the table lacks what the schema has: hold the topic until it is migrated
├── RefusedError                the store cannot decode a batch: some of its messages are bad
├── BadMessageError             one message can never be stored: a dead letter
└── FatalError                  a person must decide: the consumer stops
    ├── OffsetsOutOfRangeError
    └── QuarantineLimitError
"""

from __future__ import annotations

from enum import StrEnum


class ConsumerError(Exception):
    """Base of everything the consumer raises on purpose."""


class TransientError(ConsumerError):
    """Trying again may help. Never the reason for a dead letter."""


class StoreUnavailableError(TransientError):
    """The store does not answer, or answers that it cannot take data now."""


class StoreCredentialsError(StoreUnavailableError):
    """The store refuses the user or the password."""


class StoreMemoryError(StoreUnavailableError):
    """The store ran into a memory limit; smaller inserts may pass."""


class KafkaUnavailableError(TransientError):
    """The broker does not answer."""


class RegistryUnavailableError(TransientError):
    """The schema registry does not answer, so an unknown schema id cannot be judged."""


class StalledError(TransientError):
    """The main loop did not run for longer than the group tolerates: inserting now could be a zombie's insert."""


class TableBehindError(ConsumerError):
    """The event table lacks a column of the schema (or the whole table is missing)."""

    def __init__(self, topic: str, detail: str) -> None:
        super().__init__(f"{topic}: {detail}; run `gpufleet migrate`, the consumer goes on by itself")
        self.topic = topic


class RefusedError(ConsumerError):
    """The store could not decode an insert's body. Nothing of it is stored: it was one block."""


class Reason(StrEnum):
    """Why a message is a dead letter; the values of ``dead_letters.reason``."""

    FRAMING = "framing"
    IDENTITY = "identity"
    UNKNOWN_SCHEMA = "unknown_schema"
    DECODE = "decode"
    WRONG_KIND = "wrong_kind"
    TOO_OLD = "too_old"
    IN_FUTURE = "in_future"
    TOO_LARGE = "too_large"
    UNSIGNED = "unsigned"
    """The site wants signatures and there is none."""
    SIGNATURE = "signature"
    """The signature does not fit, or its key is unknown, ended or revoked."""
    FOREIGN = "foreign"
    """A good signature, but of a producer that may not write this."""


UNPROVEN = frozenset({Reason.UNSIGNED, Reason.SIGNATURE, Reason.FOREIGN})
"""Reasons that say nothing about the producer a message names: anybody may have written it."""


class BadMessageError(ConsumerError):
    """A message that can never be stored, with the reason and what was expected and found."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


class FatalError(ConsumerError):
    """Going on would hide a loss; a person must decide."""


class OffsetsOutOfRangeError(FatalError):
    """Kafka no longer (or not yet) holds the offsets that come next."""


class QuarantineLimitError(FatalError):
    """More producers have refused messages than can be a coincidence: the fault is likely here."""
