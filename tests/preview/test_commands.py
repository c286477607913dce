"""``gpufleet preview`` and the page beside ``gpufleet up``: what they say, and that they hold nothing up."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from click.testing import CliRunner, Result

from infra.cli.main import cli
from infra.preview import charts, chromium
from infra.up.preview import Preview
from tests.consumers.running import eventually
from tests.preview.support import need_chromium

if TYPE_CHECKING:
    from tests.story import Story

PNG = b"\x89PNG\r\n\x1a\n"


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["preview", *arguments])


def fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def test_a_picture_without_a_browser_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chromium, "PROGRAMS", ("no-such-browser",))
    result = invoke("shot", "fleet", "--out", str(tmp_path / "x.png"))
    assert (result.exit_code, "this needs Chromium or Chrome, and found none" in result.output) == (2, True)
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["no-such-board"], "no board 'no-such-board'; there are: fleet, rack, node"),
        (["fleet", "--var", "shoe=42"], "Fleet has no variable shoe; it has site"),
        (["fleet", "--var", "site"], "--var expects NAME=VALUE"),
        (["fleet", "--browser", "/nowhere/chrome"], "/nowhere/chrome"),
        (["fleet", "--from", "garbage"], "garbage"),
        (["fleet", "--from", "now", "--to", "now-1h"], "a range that ends after its start"),
        (["usage"], "Usage and caps is a customer's board: choose whose view with --as TENANT"),
    ],
)
def test_a_picture_of_what_is_not_there_is_refused(tmp_path: Path, arguments: list[str], says: str) -> None:
    result = invoke("shot", *arguments, "--out", str(tmp_path / "x.png"))
    assert (result.exit_code, says in result.output) == (2, True), result.output


def test_a_picture_that_cannot_be_written_is_not_drawn(tmp_path: Path) -> None:
    result = invoke("shot", "fleet", "--out", str(tmp_path / "no" / "x.png"), "--browser", "/nowhere/chrome")
    assert (result.exit_code, f"there is no folder {tmp_path / 'no'}" in result.output) == (2, True), result.output


@pytest.mark.browser
def test_a_browser_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_chromium()
    deep = tmp_path / ("x" * 100)  # its socket stands in there, and the name of a socket has 108 bytes
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    monkeypatch.setattr(tempfile, "tempdir", None)
    result = invoke("shot", "fleet", "--out", str(tmp_path / "x.png"), "--set", "store.url=http://127.0.0.1:9")
    assert (result.exit_code, "Socket path too long" in result.output) == (3, True), result.output
    assert not list(deep.glob("gpufleet-chromium-*"))


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Short enough for the socket that Chromium puts into it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.browser
def test_a_picture_that_is_called_off_takes_its_browser_along(short_folder: Path) -> None:
    need_chromium()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        store = f"store.url=http://127.0.0.1:{silent.getsockname()[1]}"
        command = ["preview", "shot", "fleet", "--out", str(short_folder / "x.png"), "--set", store]
        with subprocess.Popen(
            [sys.executable, "-m", "infra.cli.main", *command],
            cwd=short_folder,
            env={**os.environ, "TMPDIR": str(short_folder)},
        ) as process:
            ready = "gpufleet-chromium-*/DevToolsActivePort"
            eventually(lambda: any(short_folder.glob(ready)) or process.poll() is not None)
            assert process.returncode is None
            started = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 130
    assert started
    assert not psutil.wait_procs(started, timeout=20)[1]
    assert not list(short_folder.glob("gpufleet-chromium-*"))


def test_without_the_chart_library_serve_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    charts.path.cache_clear()
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "plotly" else find(name, *more)
    )
    result = invoke("serve", "--port", "0")
    assert (result.exit_code, "pip install 'gpufleet[embedded]'" in result.output) == (2, True)


def test_a_port_in_use_is_said_where_it_was_asked_for(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = invoke("serve", "--port", str(port), "--set", "store.url=http://127.0.0.1:9")
    assert (result.exit_code, f"cannot listen on 127.0.0.1:{port}" in result.output) == (3, True), result.output


def test_another_port_is_taken_where_none_was_asked_for(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "infra.cli.main",
            "preview",
            "serve",
            "--json",
            "--set",
            f"preview.port={port}",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path, text=True) as process:
            assert process.stdout is not None
            try:
                url = json.loads(process.stdout.readline())["url"]
                assert f":{port}/" not in url
                assert "gpufleet-fleet" in fetched(url + "api/boards")
            finally:
                process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0


@pytest.mark.store
def test_the_page_beside_up_is_a_process_of_its_own(story: Story) -> None:
    data = story.stack.data
    with Preview(data).start() as page, Preview(data).start() as other:
        assert page.url.startswith("http://127.0.0.1:")
        assert page.url != other.url
        assert "gpufleet-fleet" in fetched(page.url + "api/boards")
        assert json.loads((data / "preview.json").read_text())["pid"] != os.getpid()
    assert not (data / "preview.json").exists()
    with pytest.raises(urllib.error.URLError):
        fetched(page.url)


def test_a_page_that_cannot_start_says_why_and_raises_nothing(tmp_path: Path) -> None:
    page = Preview(tmp_path).start()
    assert (page.url, "expected a running `gpufleet up --data" in page.trouble) == ("", True), page.trouble


@pytest.mark.browser
@pytest.mark.store
def test_a_board_becomes_a_picture(story: Story, tmp_path: Path) -> None:
    need_chromium()
    out = tmp_path / "rack.png"
    ends = ["--from", str(story.range.to_ms - 3_600_000), "--to", str(story.range.to_ms)]
    size = ["--width", "800", "--height", "600"]
    result = invoke("shot", "rack", "--data", str(story.stack.data), "--out", str(out), *size, *ends, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["failed"] == []
    png = out.read_bytes()
    assert (png[:8], int.from_bytes(png[16:20]), int.from_bytes(png[20:24])) == (PNG, 800, 600)
