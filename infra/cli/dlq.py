"""``gpufleet dlq``: what could not be stored, why, and what to do about it."""

from __future__ import annotations

import functools
import getpass
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from infra.cli.common import GpufleetError, UnreachableError, UsageError, json_option, print_json, settings_options
from infra.cli.dlq_flaws import flaws
from infra.config import Settings

if TYPE_CHECKING:
    from consumers.letters.judge import Judge
    from consumers.letters.letter import Asked, Group
    from consumers.letters.replay import Outcome
    from consumers.letters.shelf import Shelf

F = TypeVar("F", bound=Callable[..., Any])
BY = ("topic", "reason", "schema", "producer")


@click.group(
    epilog="""\b
Examples:
  gpufleet dlq list
  gpufleet dlq replay --reason unknown_schema --dry-run"""
)
def command() -> None:
    """Read, replay and put aside what could not be stored (dead letters), and explain flawed events.

    A letter is named by where its message stood: TOPIC/PARTITION/OFFSET. docs/quarantine.md is written for the night.
    """


command.add_command(flaws)


def which_options(command: F) -> F:
    """Adds the options that choose letters; the command gets them as ``asked``."""

    @click.option("--topic", metavar="NAME", help="Topic the message came from.")
    @click.option("--reason", metavar="WHY", help="decode, unknown_schema, too_old ...")
    @click.option("--schema-id", type=click.IntRange(0), metavar="ID", help="Schema id in its framing.")
    @click.option("--producer", metavar="ID", help="Producer its header names.")
    @click.option("--since", metavar="TIME", help="Appended from then on: 90s, 15m, 2h, 3d ago or ISO 8601 (UTC).")
    @click.option("--until", metavar="TIME", help="Appended before then.")
    @functools.wraps(command)
    def wrapper(
        *args: Any,
        topic: str | None,
        reason: str | None,
        schema_id: int | None,
        producer: str | None,
        since: str | None,
        until: str | None,
        **kwargs: Any,
    ) -> Any:
        from consumers.errors import Reason
        from consumers.letters.letter import Asked
        from infra.cli.audit import since_when
        from schemas.catalogue import KINDS

        if topic is not None and topic not in KINDS:
            raise UsageError(f"--topic expects one of {', '.join(KINDS)}, found {topic!r}")
        reasons = [one.value for one in Reason]
        if reason is not None and reason not in reasons:
            raise UsageError(f"--reason expects one of {', '.join(reasons)}, found {reason!r}")
        asked = Asked(
            topic=topic, reason=reason, schema_id=schema_id, producer=producer,
            since=since_when(since) if since else None, until=since_when(until) if until else None,
        )  # fmt: skip
        return command(*args, asked=asked, **kwargs)

    return wrapper  # type: ignore[return-value]  # the same command with options added


@command.command(
    "list",
    epilog="""\b
Examples:
  gpufleet dlq list
  gpufleet dlq list --reason decode --by producer --since 1d
  gpufleet dlq list --all --json""",
)
@which_options
@click.option("--by", metavar="WHAT,...", default="topic,reason,schema", show_default=True, help=f"Of {', '.join(BY)}.")
@click.option("--all", "everything", is_flag=True, help="Also what was replayed or dropped.")
@json_option
@settings_options
def list_(settings: Settings, asked: Asked, by: str, everything: bool, as_json: bool) -> None:
    """Count letters that are alike: how many, from how many producers, since when, and one example."""
    from consumers.letters.shelf import STATES

    names = tuple(name.strip() for name in by.split(",") if name.strip())
    if not names or not set(names) <= set(BY):
        raise UsageError(f"--by expects some of {', '.join(BY)}, found {by!r}")
    with shelf(settings) as letters:
        groups = letters.groups(replace(asked, states=STATES) if everything else asked, names)
    if as_json:
        print_json([_group(group) for group in groups])
        return
    if not groups:
        click.echo("no letters" if everything else "no open letters")
    for group in groups:
        what = ", ".join(f"{name} {'-' if value is None else value or '?'}" for name, value in group.values.items())
        states = ", ".join(f"{count:,} {state}" for state, count in sorted(group.states.items()))
        click.echo(f"{group.letters:>9,}  {what}" + (f" ({states})" if everything else ""))
        producers = f"{group.producers:,} producer{'s' * (group.producers != 1)}" if group.producers else "nobody known"
        click.echo(f"{'':11}{producers}, {group.first:%Y-%m-%d %H:%M:%S} to {group.last:%Y-%m-%d %H:%M:%S}")
        click.echo(f"{'':11}e.g. {group.example}: {_short(group.detail)}")
    if groups:
        click.echo(f"gpufleet dlq show {groups[0].example}")


@command.command(
    epilog="""\b
Examples:
  gpufleet dlq show node-telemetry/3/10542
  gpufleet dlq show node-telemetry/3/10542 --json"""
)
@click.argument("letter")
@click.option("--bytes", "raw", is_flag=True, help="The bytes in hex even where none is wrong.")
@json_option
@settings_options
def show(settings: Settings, letter: str, raw: bool, as_json: bool) -> None:
    """Read LETTER as far as it can be read, mark the byte that is wrong, say why, and what to do."""
    from consumers.letters.letter import Asked
    from consumers.letters.page import Page
    from consumers.letters.shelf import STATES

    with shelf(settings) as letters, trouble():
        found = list(letters.letters(Asked(refs=(_ref(letter),), states=STATES)))
        if not found:
            raise GpufleetError(f"no letter {letter}; `gpufleet dlq list --all` names some")
        if len(found) > 1:
            runs = ", ".join(f"{letter}@{one.key.run_id}" for one in found)
            raise UsageError(f"the topic was made anew, so there are several: say which of {runs}")
        page = Page(found[0], judge(settings))
    if as_json:
        print_json(page.to_dict())
        return
    for line in page.lines(raw=raw):
        click.echo(line)


@command.command(
    epilog="""\b
Examples:
  gpufleet dlq replay --reason unknown_schema --dry-run
  gpufleet dlq replay --reason too_old --since 2d --why "limit raised for the backlog of site b"
  gpufleet dlq replay node-telemetry/3/10542 --as-schema 12"""
)
@click.argument("letters", nargs=-1, metavar="[LETTER]...")
@which_options
@click.option("--everything", is_flag=True, help="All open letters.")
@click.option("--as-schema", type=click.IntRange(0, (1 << 32) - 1), metavar="ID", help="What the framing should name.")
@click.option("--identity-from-datum", is_flag=True, help="Make a header that lacks or cannot be read from the datum.")
@click.option("--why", default="replayed", show_default=True, help="Kept with the letters.")
@click.option("--who", metavar="NAME", help="Kept with the letters.  [default: user@host]")
@click.option("--wait", default=60.0, show_default=True, metavar="SECONDS", help="For the consumer to store them.")
@click.option("--dry-run", is_flag=True, help="Say what would be sent, and what would be refused again and why.")
@json_option
@settings_options
def replay(
    settings: Settings,
    asked: Asked,
    letters: tuple[str, ...],
    everything: bool,
    as_schema: int | None,
    identity_from_datum: bool,
    why: str,
    who: str | None,
    wait: float,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Send open letters again that the consumer would store today; each event is stored once, however often this runs.

    They go back to their topics under the identity they had. What would be refused again is not sent and stays as it
    is. Exits with 1 while events that were sent are not in the store yet: run it again, nothing is stored twice.
    """
    from consumers.letters.replay import Repair, Sender
    from consumers.letters.replay import replay as again
    from consumers.store import EventStore
    from infra.connections import connect_store
    from infra.kafka.client import librdkafka

    asked = _chosen(asked, letters, everything, "replay")
    repair = Repair(schema_id=as_schema, identity=identity_from_datum)
    with shelf(settings, change=True) as kept, trouble():
        _all_there(kept, asked)
        store = EventStore(lambda: connect_store(settings, admin=True), settings.store.database)
        outcome = again(
            kept.pages(asked), judge(settings), store, kept, Sender(librdkafka(settings.kafka, "producer")),
            repair=repair, who=who or _me(), why=why, wait_s=wait, dry_run=dry_run,
        )  # fmt: skip
    if as_json:
        print_json({"dry_run": dry_run, **asdict(outcome)})
    else:
        _told(outcome, dry_run)
    if outcome.waiting:
        raise SystemExit(1)


@command.command(
    epilog="""\b
Examples:
  gpufleet dlq drop --reason decode --producer h100-r0001-n03 --why "bad DIMM, replaced (OPS-17)"
  gpufleet dlq drop node-telemetry/3/10542 --why "tried by hand"
  gpufleet dlq drop node-telemetry/3/10542 --undo --why "not so fast\""""
)
@click.argument("letters", nargs=-1, metavar="[LETTER]...")
@which_options
@click.option("--everything", is_flag=True, help="All open letters.")
@click.option("--why", required=True, help="Kept with the letters.")
@click.option("--who", metavar="NAME", help="Kept with the letters.  [default: user@host]")
@click.option("--undo", is_flag=True, help="Open again what was dropped or replayed.")
@click.option("--dry-run", is_flag=True, help="Count, change nothing.")
@json_option
@settings_options
def drop(
    settings: Settings,
    asked: Asked,
    letters: tuple[str, ...],
    everything: bool,
    why: str,
    who: str | None,
    undo: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Put letters aside: nothing more is to be done about them. They are kept, with who said so, when and why.

    `gpufleet dlq list` and the dashboards count them no more; `list --all` and `show` still find them.
    """
    asked = _chosen(asked, letters, everything, "drop")
    if not why.strip():
        raise UsageError("--why expects a reason, found nothing: somebody will ask")
    if undo:
        asked = replace(asked, states=("dropped", "replayed"))
    count = 0
    with shelf(settings, change=True) as kept, trouble():
        _all_there(kept, asked)
        for page in kept.keys(asked):
            count += len(page)
            if not dry_run:
                kept.mark([one.key for one in page], "reopened" if undo else "dropped", who or _me(), why)
    if as_json:
        print_json({"dry_run": dry_run, "undo": undo, "letters": count})
    elif not count:
        click.echo(f"no {'dropped or replayed' if undo else 'open'} letters are meant")
    else:
        verb = "opened again" if undo else "dropped"
        click.echo(f"{count:,} letter{'s' * (count != 1)} {'would be ' if dry_run else ''}{verb}")


@contextmanager
def shelf(settings: Settings, *, change: bool = False) -> Iterator[Shelf]:
    """The letters of the store that the settings name; reading asks for no more than a reader's rights."""
    from consumers.letters.shelf import Shelf
    from infra.connections import connect_store

    client = connect_store(settings, admin=change)
    try:
        yield Shelf(client, settings.store.database)
    finally:
        client.close()


def judge(settings: Settings) -> Judge:
    """The consumer's word on messages, with these settings."""
    from consumers.letters.judge import Judge
    from infra.cli.consume import ask_registry, consume_settings
    from infra.signing import consumer_signing

    return Judge(consume_settings(settings), ask_registry(settings), consumer_signing(settings))


@contextmanager
def trouble() -> Iterator[None]:
    """What the consumer's parts raise, as errors for people."""
    from consumers.errors import ConsumerError, TransientError

    try:
        yield
    except TransientError as error:
        raise UnreachableError(str(error)) from error
    except ConsumerError as error:
        raise GpufleetError(str(error)) from error


def _chosen(asked: Asked, letters: tuple[str, ...], everything: bool, verb: str) -> Asked:
    asked = replace(asked, refs=tuple(_ref(text) for text in letters))
    if asked.narrowed == everything:
        raise UsageError(f"say which letters to {verb}: some LETTERs, options such as --reason, or --everything alone")
    return asked


def _all_there(kept: Shelf, asked: Asked) -> None:
    """GpufleetError when a letter that is named was never kept; one that was dealt with already is none to worry of."""
    from consumers.letters.letter import Asked
    from consumers.letters.shelf import STATES

    if asked.refs:
        found = {one.ref for one in kept.letters(Asked(refs=asked.refs, states=STATES))}
        missing = [str(ref) for ref in asked.refs if replace(ref, run=None) not in found]
        if missing:
            raise GpufleetError(f"no letter {', '.join(missing)}; `gpufleet dlq list --all` names some")


def _ref(text: str) -> Any:
    from consumers.letters.letter import Ref

    try:
        return Ref.parse(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _told(outcome: Outcome, dry_run: bool) -> None:
    """The outcome for a person."""
    if not outcome.letters:
        click.echo("no open letters are meant")
        return
    if dry_run:
        click.echo(f"{outcome.sent:,} events of {outcome.letters:,} letters would be sent again")
    else:
        click.echo(f"{outcome.stored:,} of {outcome.letters:,} letters stored")
    if outcome.already:
        click.echo(f"{outcome.already:,} were stored already" + ("" if dry_run else ": marked as replayed"))
    for reason, count in sorted(outcome.refused.items()):
        ref, detail = outcome.examples[reason]
        click.echo(f"{count:,} would be refused again, {reason}: e.g. {ref}: {_short(detail)}")
    if outcome.waiting:
        click.echo(
            f"{len(outcome.waiting):,} were sent and are not stored yet, e.g. {outcome.waiting[0]}: is a consumer"
            " running? Run it again later: nothing is stored twice"
        )


def _group(group: Group) -> dict[str, Any]:
    return {**group.values, **{k: v for k, v in asdict(group).items() if k != "values"}, "example": str(group.example)}


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 160 else f"{line[:157]}..."


def _me() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"
