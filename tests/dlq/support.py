"""Letters of every sort, made by the real consumer, and the commands that deal with them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import click
from click.testing import CliRunner

from consumers.letters.judge import Judge
from consumers.letters.letter import Asked, Letter
from consumers.letters.replay import Outcome, Repair, Sender
from consumers.letters.replay import replay as send_again
from consumers.letters.shelf import STATES, Shelf
from consumers.settings import ConsumeSettings
from consumers.store import EventStore
from infra.cli.common import explain
from infra.cli.main import cli
from infra.embedded.store.process import StoreProcess
from schemas import framing
from tests.conftest import OPERATOR_PASSWORD
from tests.consumers.fleet import Sent
from tests.consumers.running import client

TOPIC = "node-telemetry"


def with_value(one: Sent, value: bytes) -> Sent:
    return replace(one, value=value)


def with_id(one: Sent, schema_id: int) -> Sent:
    return with_value(one, framing.prefix(schema_id) + one.value[framing.PREFIX_BYTES :])


class Desk:
    """A person's tools over one store and one broker, for the letters of one site."""

    def __init__(self, store: StoreProcess, bootstrap: str, settings: ConsumeSettings) -> None:
        self.client: Any = client(store)
        self._environment = {"GPUFLEET_STORE_PASSWORD": store.password}
        self.settings, self.bootstrap = settings, bootstrap
        self.shelf = Shelf(self.client)
        self.events = EventStore(lambda: client(store), settings.database)
        self._options = {
            "kafka.bootstrap": bootstrap,
            "store.url": f"http://{store.host}:{store.port}",
            "store.user": store.username,
            "site.name": settings.site,
        }

    def letters(self, *, states: Sequence[str] = STATES, **asked: Any) -> list[Letter]:
        """The site's letters, oldest first."""
        found = self.shelf.letters(Asked(states=tuple(states), **asked))
        return [one for one in found if one.key.site == self.settings.site]

    def replay(
        self,
        letters: Sequence[Letter] | None = None,
        *,
        judge: Judge | None = None,
        repair: Repair | None = None,
        send: Any = None,
        **options: Any,
    ) -> Outcome:
        """Send the site's open letters again."""
        chosen = self.letters(states=["open"]) if letters is None else list(letters)
        return send_again(
            [chosen] if chosen else [],
            judge or Judge(self.settings),
            self.events,
            self.shelf,
            send or Sender({"bootstrap.servers": self.bootstrap}),
            repair=repair,
            **{"who": "ann", "why": "test", "wait_s": 30.0, **options},
        )

    def as_operator(self) -> Desk:
        """The same for a person who may read, as the policies let them, and change nothing."""
        other = copy(self)
        other._options = {**self._options, "store.user": "operator"}
        other._environment = {"GPUFLEET_STORE_PASSWORD": OPERATOR_PASSWORD}
        return other

    def run(self, *arguments: str, code: int = 0, settings: Mapping[str, str] | None = None) -> str:
        """``gpufleet dlq ...`` as a person calls it; its output, having checked the exit code."""
        options = [f"--set={key}={value}" for key, value in {**self._options, **(settings or {})}.items()]
        runner = CliRunner(env=self._environment)
        result = runner.invoke(cli, ["dlq", *arguments, *options], standalone_mode=False)
        error: BaseException | None = result.exception
        if isinstance(error, Exception):
            error = explain(error) or error  # as the command line does
        found = error.exit_code if isinstance(error, click.ClickException) else result.exit_code
        assert found == code, (result.output, error)
        return result.output + (error.format_message() if isinstance(error, click.ClickException) else "")

    def json(self, *arguments: str, code: int = 0, settings: Mapping[str, str] | None = None) -> Any:
        return json.loads(self.run(*arguments, "--json", code=code, settings=settings))
