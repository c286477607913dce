"""A fake Grafana, and `gpufleet grafana` as it is run: from the environment that holds grafana-client."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import missing
from tests.provisioning.fake_grafana import FakeGrafana

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def grafana_bin() -> Path:
    """Programs of the environment of the extra grafana, which `make` keeps beside the other."""
    folder = Path(os.environ.get("GPUFLEET_GRAFANA_VENV") or ROOT / ".venv-grafana") / "bin"
    if not (folder / "gpufleet").exists():
        missing("grafana", f"{folder} does not hold gpufleet: make .venv-grafana/.stamp")
    return folder


@dataclass
class Command:
    """Runs `gpufleet grafana` against the fake, with two tenants' passwords at hand."""

    bin: Path
    folder: Path
    grafana: FakeGrafana

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    def __call__(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        values = {
            "GPUFLEET_GRAFANA_URL": self.grafana.url,
            "GPUFLEET_GRAFANA_PASSWORD_FILE": str(self.folder / "admin.password"),
            "GPUFLEET_STORE_URL": "https://clickhouse.example:8443",
            "GPUFLEET_STORE_USER": "oncall",
            "GPUFLEET_STORE_PASSWORD": "secret-of-operator",
            "GPUFLEET_STORE_TENANT_PASSWORD_DIR": str(self.secrets),
            "PATH": os.environ["PATH"],
            **settings,
        }
        return subprocess.run(
            [self.bin / "gpufleet", "grafana", *arguments], cwd=self.folder, env=values, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip

    def changes(self, *arguments: str, **settings: str) -> list[dict[str, Any]]:
        """The changes of a run that must go well."""
        done = self(*arguments, "--json", **settings)
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)["changes"]
        return found


@pytest.fixture
def command(grafana_bin: Path, tmp_path: Path) -> Iterator[Command]:
    with FakeGrafana().running() as fake:
        made = Command(grafana_bin, tmp_path, fake)
        (tmp_path / "admin.password").write_text(fake.password + "\n")
        made.secrets.mkdir()
        for tenant in ("anthropic", "nimbus"):
            (made.secrets / f"{tenant}.password").write_text(f"secret-of-{tenant}\n")
        yield made
