"""The identity protocol as a small machine: one partition of the log, its consumer, the store, and what goes wrong.

A state is a tuple, a move is a function from state to state, and every rule of the protocol is a switch, so that
``explore`` can visit every state there is and show what happens without a rule. docs/identity.md tells the same in
words. The machine is written apart from the consumer on purpose: it must be small enough to be read at one sitting,
hashable, and able to leave a rule out; ``test_conformance`` walks the consumer's own intake, filter, horizon and boot
watch along its paths and compares them step by step.

An event is a text such as "a1": run a, number 1. "a1'" is another event under the same identity, which a producer that
forgets its numbers would make.

What time means here. "A horizon goes by": what is stored is durable then, and the store has merged what it merges;
rows stored more than once by different inserts have become one. Copies within one insert stay: a part is not merged
with itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from tests.model.state import ALL, UNKNOWN, Batch, Consumer, Do, Move, Part, Rule, State, Step, identity, together


class Protocol:
    """The machine for one script of messages. ``moves`` is all it does."""

    def __init__(self, script: Part, rules: frozenset[Rule] = ALL, failures: int = 2) -> None:
        self.script, self.rules = script, rules
        consumer = self._joined(log=0, committed=-1)
        self.start = State(0, (), (), (), (), 0, (), (), -1, consumer, failures)

    def moves(self, s: State) -> Iterator[Move]:
        """Every state that can follow, with what happened."""
        yield from self.progress(s)
        if s.failures:
            yield from self._failures(s._replace(failures=s.failures - 1))

    def progress(self, s: State) -> Iterator[Move]:
        """What happens when nothing goes wrong (any more)."""
        c = s.consumer
        if s.log < len(self.script):
            yield Step(Do.APPEND, f"{self.script[s.log]} enters the log"), s._replace(log=s.log + 1)
        if c.next < s.log:
            yield self._read(s)
        if c.boot >= 0 or Rule.BOOT_FIRST not in self.rules:
            yield from self._look_up(s)
        for at, batch in enumerate(c.batches):
            if batch.plan is not None:
                stored = s._replace(fresh=self._with(s.fresh, batch.plan))
                words = f"insert {told(batch.plan)}: stored, acknowledged" if batch.plan else "all of it is stored"
                yield Step(Do.ACKNOWLEDGED, words), self._finished(stored, at)
        yield from self._books(s)
        for part in sorted({*s.late, *s.stalled}):
            less = s._replace(late=without(s.late, part), stalled=without(s.stalled, part))
            arrived = less._replace(fresh=self._with(s.fresh, part))
            yield Step(Do.ARRIVES, f"the late insert {told(part)} arrives", part), arrived
            yield Step(Do.VANISHES, f"the late insert {told(part)} never arrives", part), less
        yield from self._grow_old(s)

    # --- the consumer -------------------------------------------------------------------------------------------

    def _joined(self, log: int, committed: int) -> Consumer:
        """A consumer that was just assigned the partition."""
        begin = 0 if Rule.FROM_THE_BEGINNING in self.rules else log
        start = begin if committed < 0 else committed
        return Consumer(start, log if Rule.ASSIGNMENT in self.rules else 0, start, start, trailing=start)

    def _read(self, s: State) -> Move:
        c = s.consumer
        event = self.script[c.next]
        run, seq = event[0], int(event[1])
        runs = {name: (watermark, highest) for name, watermark, highest in c.runs}
        watermark, highest = runs.get(run, (UNKNOWN if Rule.UNKNOWN_RUN in self.rules else -1, -1))
        suspect, unknown = c.next < c.filter_until, c.unknown
        if seq > watermark:
            watermark = seq
        else:
            suspect = suspect or watermark == UNKNOWN or Rule.WATERMARK in self.rules
            if watermark == UNKNOWN:
                unknown = tuple(sorted({*unknown, run}))
            highest = max(highest, seq)
        runs[run] = watermark, highest
        after = c._replace(
            next=c.next + 1, runs=flat(runs), waiting=(*c.waiting, (c.next, suspect)), unknown=unknown
        )  # fmt: skip
        return Step(Do.READ, f"read {event}"), s._replace(consumer=after)

    def _look_up(self, s: State) -> Iterator[Move]:
        """Make a batch of what waits, or take one again, and leave out what the store holds."""
        c = s.consumer
        for at, batch in enumerate(c.batches):
            if batch.plan is None:
                yield self._planned(s, batch, c.batches[:at], c.batches[at + 1 :], "look up again")
        if c.waiting and (not c.batches or (Rule.ONE_IN_FLIGHT not in self.rules and len(c.batches) < 2)):
            fresh = s._replace(consumer=c._replace(waiting=(), unknown=()))
            yield self._planned(fresh, Batch(c.waiting, c.unknown), c.batches, (), "batch")

    def _planned(
        self, s: State, batch: Batch, before: tuple[Batch, ...], after: tuple[Batch, ...], verb: str
    ) -> Move:  # fmt: skip
        rows = together(s.settled, *s.fresh)
        held = {identity(event) for event in rows}
        sure = [offset for offset, suspect in batch.items if not (suspect or batch.check_all)]
        seen = set(held)
        if Rule.WITHIN_BATCH in self.rules:
            seen |= {identity(self.script[offset]) for offset in sure}
        plan = [self.script[offset] for offset in sure]
        for offset, _ in batch.items:
            event = self.script[offset]
            if offset in sure or identity(event) in seen:
                continue
            plan.append(event)
            if Rule.WITHIN_BATCH in self.rules:
                seen.add(identity(event))
        learned = [(run, self._max_seq(rows, run)) for run in batch.unknown]
        made = batch._replace(plan=tuple(sorted(plan)), learned=tuple(learned))
        checked = sum(suspect or batch.check_all for _, suspect in batch.items)
        said = f"{verb} {told([self.script[o] for o, _ in batch.items])}: {checked} looked up, {told(plan)} to insert"
        return Step(Do.LOOK_UP, said), s._replace(consumer=s.consumer._replace(batches=(*before, made, *after)))

    def _max_seq(self, rows: Part, run: str) -> int:
        if Rule.MAX_SEQ not in self.rules:
            return -1
        return max((int(event[1]) for event in rows if event[0] == run), default=-1)

    def _finished(self, s: State, at: int) -> State:
        """A batch is stored, or was before."""
        c = s.consumer
        batch = c.batches[at]
        unwritten = tuple(sorted({*c.unwritten, *(offset for offset, _ in batch.items)}))
        c = c._replace(batches=c.batches[:at] + c.batches[at + 1 :], unwritten=unwritten)
        if batch.counts:
            runs = {name: (watermark, highest) for name, watermark, highest in c.runs}
            for run, max_seq in batch.learned:
                watermark, highest = runs[run]
                if watermark == UNKNOWN:
                    runs[run] = max(max_seq, highest) if Rule.HIGHEST in self.rules else max_seq, highest
            stored = max(c.stored, batch.items[-1][0] + 1)
            c = c._replace(stored=stored, runs=flat(runs))
            if not {Rule.LEDGER_FIRST, Rule.LEDGER_HORIZON} <= self.rules:
                c = self._trail(c)
        return s._replace(consumer=c)

    def _trail(self, c: Consumer) -> Consumer:
        """From now on the horizon counts for all that is delivered."""
        return c._replace(trailing=c.stored, ripe=c.ripe if Rule.HORIZON in self.rules else c.stored)

    def _books(self, s: State) -> Iterator[Move]:
        """Write the ledger, ask which start of the store answers, commit."""
        c = s.consumer
        changed = c.boot >= 0 and c.boot != s.boot and Rule.BOOT_WATCH in self.rules
        if c.cleared <= c.committed and (c.unwritten or c.ripe > c.committed or c.boot < 0 or changed):
            after = s
            if Rule.LEDGER_FIRST in self.rules:
                after = self._written(s)
            # What may be committed was decided when the round began.
            c = after.consumer._replace(cleared=c.ripe, boot=s.boot)
            if changed:
                words = "the ledger is written, the store asked: it was restarted, back to the committed offset"
                yield Step(Do.BOOKS, words), after._replace(consumer=self._rewound(c))
            else:
                wrote = "the ledger is written, " if after.ledger_fresh != s.ledger_fresh else ""
                yield Step(Do.BOOKS, f"{wrote}the store asked for its start"), after._replace(consumer=c)
        if Rule.LEDGER_FIRST not in self.rules and s.consumer.unwritten:
            yield Step(Do.LEDGER, "the ledger is written"), self._written(s)
        c = s.consumer
        if c.cleared > c.committed:
            done = s._replace(committed=max(s.committed, c.cleared), consumer=c._replace(committed=c.cleared))
            yield Step(Do.COMMIT, f"commit {c.cleared}"), done

    def _written(self, s: State) -> State:
        c = s.consumer
        ledger = tuple(sorted({*s.ledger_fresh, *c.unwritten} - {*s.ledger}))
        c = c._replace(unwritten=())
        return s._replace(ledger_fresh=ledger, consumer=self._trail(c))

    def _rewound(self, c: Consumer) -> Consumer:
        """Read again from the committed offset, all of it through the filter."""
        back = c.committed
        forget = Rule.REWIND_FORGETS in self.rules
        batches = tuple(
            b._replace(counts=b.counts and not forget) for b in c.batches if b.plan is not None or not forget
        )
        until = max(c.filter_until, c.next)
        return c._replace(
            next=back, filter_until=until, stored=back, trailing=back, ripe=back, cleared=back, waiting=(), unknown=(),
            batches=batches,
        )  # fmt: skip

    # --- time and trouble ---------------------------------------------------------------------------------------

    def _grow_old(self, s: State) -> Iterator[Move]:
        """A horizon goes by. Requests on their way have arrived or died by then: servers and clients time out."""
        c = s.consumer
        planned = any(batch.plan is not None for batch in c.batches)
        if s.late or (planned and Rule.STALL_GUARD in self.rules):
            return
        # The copies of an event that different inserts stored become one; those of one insert stay.
        merged = together(*s.fresh)
        if Rule.COLLAPSE in self.rules:
            most = {event: max(part.count(event) for part in s.fresh) for event in merged}
            merged = tuple(event for event in sorted(most) for _ in range(most[event]))
        settled = together(s.settled, merged)
        ledger = tuple(sorted({*s.ledger, *s.ledger_fresh}))
        c = c._replace(ripe=max(c.ripe, c.trailing))
        after = s._replace(fresh=(), settled=settled, ledger_fresh=(), ledger=ledger, consumer=c)
        if after != s:
            yield Step(Do.GROW_OLD, "a horizon goes by"), after

    def _failures(self, s: State) -> Iterator[Move]:
        """What can go wrong; one failure has been taken off already."""
        c = s.consumer
        # Stopped, killed, or cut off by the group: another one takes over. An insert of its may be on its way.
        sent = tuple(batch.plan for batch in c.batches if batch.plan)
        over = s._replace(consumer=self._joined(s.log, s.committed))
        words = Step(Do.TAKE_OVER, "another consumer takes over")
        yield words, over._replace(late=tuple(sorted((*s.late, *sent))))
        if sent and Rule.STALL_GUARD not in self.rules:
            words = Step(Do.TAKE_OVER, "the consumer stands still, another one takes over")
            yield words, over._replace(stalled=tuple(sorted((*s.stalled, *sent))))
        for at, batch in enumerate(c.batches):
            if batch.plan:
                again = batch._replace(plan=None, check_all=Rule.UNCLEAR in self.rules)
                left = (*c.batches[:at], *((again,) if batch.counts else ()), *c.batches[at + 1 :])
                failed = s._replace(consumer=c._replace(batches=left))
                name = f"insert {told(batch.plan)}"
                yield Step(Do.FAILS, f"{name}: fails, nothing is stored"), failed
                stored = failed._replace(fresh=self._with(s.fresh, batch.plan))
                yield Step(Do.UNHEARD, f"{name}: stored, but its answer is lost"), stored
                late = tuple(sorted((*s.late, batch.plan)))
                yield Step(Do.GIVEN_UP, f"{name}: given up while on its way", batch.plan), failed._replace(late=late)
        if c.cleared > c.committed:
            unheard = s._replace(committed=max(s.committed, c.cleared), consumer=c._replace(cleared=c.committed))
            yield Step(Do.COMMIT_UNHEARD, f"commit {c.cleared}: made, but its answer is lost"), unheard
        # Connections die with the store.
        killed = s._replace(boot=s.boot + 1, late=())
        for kept in subsets(s.fresh):
            gone = s.fresh
            for part in kept:
                gone = without(gone, part)
            for ledger in (s.ledger_fresh, ()) if s.ledger_fresh else ((),):
                lost = [told(together(*gone))] if gone else []
                lost += ["the ledger's newest rows"] if ledger != s.ledger_fresh else []
                words = Step(
                    Do.KILL, "the store is killed and comes back" + (f" without {' and '.join(lost)}" * bool(lost))
                )
                yield words, killed._replace(fresh=kept, ledger_fresh=ledger)

    @staticmethod
    def _with(parts: tuple[Part, ...], part: Part) -> tuple[Part, ...]:
        return tuple(sorted((*parts, part))) if part else parts

    # --- what must hold -----------------------------------------------------------------------------------------

    def broken(self, s: State) -> str | None:
        """What is wrong with a state, in words; None when nothing is."""
        for event in s.settled:
            if s.settled.count(event) > 1:
                return f"{event} is stored twice for good"
        rows = together(s.settled, *s.fresh)
        for offset in range(s.committed):
            if self.script[offset] not in rows:
                return f"{self.script[offset]} is committed and not stored: nobody will read it again"
            if offset not in s.ledger and offset not in s.ledger_fresh:
                return f"{self.script[offset]} is committed and the ledger does not know: its minute is never computed"
        return None

    def restless(self, s: State) -> str | None:
        """What is wrong with a state in which nothing is left to do; None when nothing is."""
        if s.settled != tuple(sorted(set(self.script))):
            return f"at rest, but stored are {told(s.settled)}"
        if s.committed != len(self.script):
            return f"at rest, but committed is {s.committed}"
        return None


def subsets(parts: tuple[Part, ...]) -> list[tuple[Part, ...]]:
    """Every choice of parts, the smallest first, each once."""
    return list(dict.fromkeys(chosen for size in range(len(parts) + 1) for chosen in combinations(parts, size)))


def without(parts: tuple[Part, ...], part: Part) -> tuple[Part, ...]:
    """One less of ``part``, if it is among them."""
    if part not in parts:
        return parts
    at = parts.index(part)
    return parts[:at] + parts[at + 1 :]


def flat(runs: dict[str, tuple[int, int]]) -> tuple[tuple[str, int, int], ...]:
    return tuple((run, watermark, highest) for run, (watermark, highest) in sorted(runs.items()))


def told(events: object) -> str:
    """Events for a person."""
    assert isinstance(events, (list, tuple))
    return " ".join(events) if events else "nothing"
