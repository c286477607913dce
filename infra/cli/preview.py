"""``gpufleet preview``: the dashboards in a browser, or as a picture, without Grafana."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from infra.cli.common import GpufleetError, UsageError, json_option, print_json, settings_options

if TYPE_CHECKING:
    from infra.config import Settings


@click.group(
    "preview",
    epilog="""\b
Examples:
  gpufleet preview serve
  gpufleet preview serve --port 8080 --as anthropic
  gpufleet preview shot fleet --out fleet.png
  gpufleet preview shot delivered --as anthropic --out delivered.png --from now-24h --var gpu_model=H100""",
)
def command() -> None:
    """Show the dashboards without Grafana: as a page of this machine, or as a picture."""


@command.command(
    "serve",
    epilog="""\b
Examples:
  gpufleet preview serve
  gpufleet preview serve --as anthropic --port 8080
  gpufleet preview serve --config production.toml""",
)
@click.option("--port", type=click.IntRange(0, 65535), help="Port; 0 = a free one. [default: preview.port]")
@click.option("--host", help="Address to listen on; beyond loopback a token is asked for. [default: preview.host]")
@click.option("--as", "tenant", metavar="TENANT", default="", help="Show that tenant's view and nothing else.")
@click.option("--ready-file", type=click.Path(path_type=Path, dir_okay=False), help="Write the address there as JSON.")
@settings_options
@json_option
def serve(
    settings: Settings, port: int | None, host: str | None, tenant: str, ready_file: Path | None, as_json: bool
) -> None:
    """Serve the boards until Ctrl-C, from the store of the settings or of a running `gpufleet up`.

    Without --port another port is taken when the usual one is in use.
    """
    from infra.preview import charts
    from infra.preview.serving import serve as run
    from infra.preview.serving import write_ready

    charts.path()  # says what is missing before anything listens

    def ready(url: str) -> None:
        if ready_file:
            write_ready(ready_file, url)
        if as_json:
            print_json({"url": url}, pretty=False)
        else:
            click.echo(f"Dashboards: {url}  (Ctrl-C stops)", err=True)

    preview = settings.preview
    run(
        settings,
        host=host or preview.host,
        port=preview.port if port is None else port,
        any_port=port is None,
        tenant=tenant,
        ready=ready,
    )


@command.command(
    "shot",
    epilog="""\b
Examples:
  gpufleet preview shot fleet --out fleet.png
  gpufleet preview shot rack --out rack.png --var rack=a01-r01 --from now-6h --whole
  gpufleet preview shot usage --as anthropic --out usage.png --light""",
)
@click.argument("dashboard")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="PNG file to write.")
@click.option("--width", type=click.IntRange(320, 7680), default=1440, show_default=True, help="Of the window, pixels.")
@click.option(
    "--height", type=click.IntRange(240, 20000), default=900, show_default=True, help="Of the window, pixels."
)
@click.option("--whole", is_flag=True, help="The whole board, as high as it is.")
@click.option("--from", "start", help="Start of the range: now-6h, 2026-11-22 17:00 (UTC). [default: the board's]")
@click.option("--to", "end", help="End of the range. [default: now]")
@click.option("--var", "variables", multiple=True, metavar="NAME=VALUE", help="Value of a board's variable.")
@click.option("--panel", type=click.IntRange(min=0), help="One panel alone, by its id.")
@click.option("--as", "tenant", metavar="TENANT", default="", help="For a customer's board: whose view.")
@click.option("--light", is_flag=True, help="Light instead of dark.")
@click.option("--browser", metavar="PROGRAM", help="Chromium or Chrome. [default: looked for]")
@settings_options
@json_option
def shot(
    settings: Settings,
    dashboard: str,
    out: Path,
    width: int,
    height: int,
    whole: bool,
    start: str | None,
    end: str | None,
    variables: tuple[str, ...],
    panel: int | None,
    tenant: str,
    light: bool,
    browser: str | None,
    as_json: bool,
) -> int:
    """Draw DASHBOARD (fleet, rack, delivered ...) into a PNG, with the Chromium of this machine.

    Exit code 1 when a panel failed: the picture shows which.
    """
    from infra.preview.shot import Shot, take

    pairs = [text.partition("=") for text in variables]
    if not all(equals for _, equals, _ in pairs):
        raise UsageError("--var expects NAME=VALUE")
    if not out.parent.is_dir():
        raise UsageError(f"cannot write {out}: there is no folder {out.parent}")
    asked = Shot(
        board=dashboard,
        width=width,
        height=height,
        whole=whole,
        start=start,
        end=end,
        variables={name: value for name, _, value in pairs},
        panel=panel,
        tenant=tenant,
        theme="light" if light else "dark",
    )
    taken = take(settings, asked, browser)
    try:
        out.write_bytes(taken.png)
    except OSError as error:
        raise GpufleetError(f"cannot write {out}: {error.strerror}") from None
    if as_json:
        print_json({"out": out, "bytes": len(taken.png), "failed": taken.failed})
    else:
        for failure in taken.failed:
            click.echo(f"panel {failure}", err=True)
    return 1 if taken.failed else 0
