"""``gpufleet grafana``: the boards, data sources and alert rules in a Grafana, by files or through its API."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from infra.cli.common import UsageError, json_option, print_json, settings_options

if TYPE_CHECKING:
    from infra.config import Settings
    from infra.grafana.provisioning.datasource import Source

_customers = click.option(
    "--customer", "customers", multiple=True, metavar="TENANT",
    help="Only these customers, '' = none. [default: every tenant in store.tenant_password_dir]",
)  # fmt: skip
_prune = click.option("--prune", is_flag=True, help="Delete dashboards in our folder that are not ours any more.")


@click.group(
    "grafana",
    epilog="""\b
Examples:
  gpufleet grafana render --output ./provisioning --path /etc/grafana/provisioning
  gpufleet grafana plan
  gpufleet grafana apply --customer anthropic
These need the extra grafana, in an environment of its own: make grafana ARGS=plan""",
)
def command() -> None:
    """Provision a Grafana (12 or newer): organisations, data sources, dashboards, alert rules.

    The operator's boards go into Grafana's first organisation; each customer gets an organisation of its own, whose
    data source asks ClickHouse as that tenant's user.
    """


@command.command(
    "plan",
    epilog="""\b
Examples:
  gpufleet grafana plan
  gpufleet grafana plan --json""",
)
@_customers
@_prune
@json_option
@settings_options
def plan(settings: Settings, customers: tuple[str, ...], prune: bool, as_json: bool) -> int:
    """Show what `apply` would change. Changes nothing."""
    return _reconcile(settings, customers, prune=prune, dry=True, as_json=as_json)


@command.command(
    "apply",
    epilog="""\b
Examples:
  gpufleet grafana apply
  gpufleet grafana apply --customer anthropic --prune""",
)
@_customers
@_prune
@click.option("--dry-run", is_flag=True, help="The same as `plan`.")
@json_option
@settings_options
def apply(settings: Settings, customers: tuple[str, ...], prune: bool, dry_run: bool, as_json: bool) -> int:
    """Bring Grafana to what the committed files say. A second run changes nothing."""
    return _reconcile(settings, customers, prune=prune, dry=dry_run, as_json=as_json)


@command.command(
    "render",
    epilog="""\b
Examples:
  gpufleet grafana render --output ./provisioning --path /etc/grafana/provisioning
  gpufleet grafana render --output ./provisioning --customer anthropic=2 --notify""",
)
@click.option(
    "--output", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to write, kept in line."
)
@click.option("--path", default="", help="Where Grafana sees that folder. [default: the folder itself]")
@click.option(
    "--customer", "customers", multiple=True, metavar="TENANT=ORG",
    help="Also a customer's, for the organisation of that number, which must exist (`apply` makes organisations).",
)  # fmt: skip
@click.option(
    "--secrets-dir", default="", metavar="DIR",
    help="Refer to secrets as files there ($__file{DIR/NAME}). [default: as environment variables]",
)  # fmt: skip
@click.option(
    "--notify", is_flag=True,
    help="Also contact points and policies. Grafana replaces an organisation's whole policy tree by a file's.",
)  # fmt: skip
@click.option(
    "--policies", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
    help="With --notify: the policies of today as Grafana exports them (YAML), which our route is put into.",
)  # fmt: skip
@json_option
@settings_options
def render(
    settings: Settings,
    output: Path,
    path: str,
    customers: tuple[str, ...],
    secrets_dir: str,
    notify: bool,
    policies: Path | None,
    as_json: bool,
) -> None:
    """Write Grafana's provisioning folder, without any secret in it.

    Environment variables it then needs: GPUFLEET_OPERATOR_PASSWORD, GPUFLEET_TENANT_NAME_PASSWORD for each customer,
    and with --notify GPUFLEET_PAGE_WEBHOOK, GPUFLEET_TICKET_WEBHOOK and, for customers with a file in
    grafana.customer_webhook_dir, GPUFLEET_TENANT_NAME_WEBHOOK. With --secrets-dir: the files operator.password,
    NAME.password, page.webhook, ticket.webhook and NAME.webhook.
    """
    from infra.grafana.provisioning.desired import MAIN_ORG, Told
    from infra.grafana.provisioning.tree import tree, write

    def secret(name: str, variable: str) -> str:
        return f"$__file{{{secrets_dir.rstrip('/')}/{name}}}" if secrets_dir else f"${variable}"

    if policies is not None and not notify:
        raise UsageError("--policies says what --notify puts our route into: give both")
    sources = {MAIN_ORG: _operator(settings, secret("operator.password", "GPUFLEET_OPERATOR_PASSWORD"), reference=True)}
    page, ticket = secret("page.webhook", "GPUFLEET_PAGE_WEBHOOK"), secret("ticket.webhook", "GPUFLEET_TICKET_WEBHOOK")
    told = {MAIN_ORG: Told(page, ticket)} if notify else {}
    for text in customers:
        tenant, _, number = text.partition("=")
        if not number.isascii() or not number.isdigit() or int(number) <= MAIN_ORG or int(number) in sources:
            raise UsageError(f"--customer expects TENANT=ORG, a number of its own above {MAIN_ORG}, found {text!r}")
        variable = f"GPUFLEET_TENANT_{tenant.upper().replace('-', '_')}"
        password = secret(f"{tenant}.password", f"{variable}_PASSWORD")
        sources[int(number)] = _customer(settings, tenant, password, reference=True)
        if notify and _webhook(settings, tenant):
            told[int(number)] = Told(secret(f"{tenant}.webhook", f"{variable}_WEBHOOK"))
    made = tree(sources, path or str(output.absolute()), told, _exported(policies) if policies else {})
    written, deleted = write(output, made)
    if told and not as_json:
        kept = f"; {policies} is part of it" if policies else "; --policies FILE keeps what is there, `apply` as well"
        click.echo(
            "alerting/gpufleet-policies.yaml: Grafana replaces the whole notification policy of organisation"
            f" {', '.join(map(str, told))} by it{kept}",
            err=True,
        )
    if as_json:
        print_json({"output": str(output), "files": sorted(made), "written": written, "deleted": deleted})
        return
    for name in written:
        click.echo(f"wrote {output / name}")
    for name in deleted:
        click.echo(f"deleted {output / name}")
    if not written and not deleted:
        click.echo(f"{output}: {len(made)} files, nothing to change")


def _exported(file: Path) -> dict[int, dict[str, Any]]:
    """Policy trees by organisation, of a file as Grafana exports it."""
    import yaml

    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
        return {int(tree.get("orgId", 1)): dict(tree) for tree in document["policies"]}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        raise UsageError(f"{file}: expected policies as Grafana exports them (YAML), found {error!r}") from None


def _reconcile(settings: Settings, customers: tuple[str, ...], *, prune: bool, dry: bool, as_json: bool) -> int:
    from infra.grafana.provisioning.api import Grafana, Login
    from infra.grafana.provisioning.desired import Told, organisation
    from infra.grafana.provisioning.reconcile import Reconciler

    held = settings.grafana
    login = Login(
        held.url,
        held.user,
        held.password.get_secret_value() if held.password else "",
        held.token.get_secret_value() if held.token else "",
        (str(held.ca) if held.ca else True) if held.verify else False,
        held.timeout_s,
    )
    if not login.token and not login.password:
        raise UsageError("no credentials: set grafana.password_file (of grafana.user) or grafana.token_file")
    names = _names(settings, customers)
    if names and login.token:
        raise UsageError(
            "a service account's token belongs to one organisation: to provision customers"
            f" ({', '.join(names)}) set grafana.user and grafana.password_file of a server administrator,"
            " or leave them out with --customer ''"
        )
    told = Told(
        held.page_webhook.get_secret_value() if held.page_webhook else "",
        held.ticket_webhook.get_secret_value() if held.ticket_webhook else "",
    )
    wanted = [organisation("", _operator(settings, _password(settings)), told)]
    wanted += [
        organisation(name, _customer(settings, name, _tenant_password(settings, name)), Told(_webhook(settings, name)))
        for name in names
    ]
    grafana = Grafana(login)
    version = grafana.check()
    grafana.check_plugin()
    changes = []
    for change in Reconciler(grafana, dry=dry, prune=prune).run(wanted):
        changes.append(change)
        if not as_json:
            click.echo(str(change))
    if as_json:
        print_json(
            {
                "grafana": version,
                "dry_run": dry,
                "organisations": ["", *names],
                "changes": [change.as_dict() for change in changes],
            }
        )
    elif not changes:
        click.echo(f"Grafana {version}: nothing to change")
    else:
        click.echo(f"{len(changes)} change{'' if len(changes) == 1 else 's'} " + ("to make" if dry else "made"))
    if not told.page and not as_json:
        click.echo("who is told stays as it is: grafana.page_webhook is not set", err=True)
    return 0


def _names(settings: Settings, customers: tuple[str, ...]) -> list[str]:
    from infra.tenants.names import checked

    folder = settings.store.tenant_password_dir
    if customers:
        return sorted({checked(name) for name in customers if name})
    return sorted(path.name.removesuffix(".password") for path in folder.glob("*.password")) if folder else []


def _operator(settings: Settings, password: str, *, reference: bool = False) -> Source:
    from infra.grafana.provisioning.datasource import OPERATOR_UID

    return _source(settings, OPERATOR_UID, "gpufleet operator", settings.store.user, password, reference)


def _customer(settings: Settings, tenant: str, password: str, *, reference: bool = False) -> Source:
    from infra.grafana.provisioning.datasource import CUSTOMER_UID
    from infra.tenants.names import checked

    return _source(settings, CUSTOMER_UID, "gpufleet", checked(tenant), password, reference)


def _source(settings: Settings, uid: str, name: str, user: str, password: str, reference: bool) -> Source:
    from infra.grafana.provisioning.datasource import Source

    ca = settings.store.ca
    try:
        text = "" if ca is None else f"$__file{{{ca}}}" if reference else ca.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"store.ca: cannot read {ca}: {error.strerror}") from None
    url = settings.grafana.store_url or settings.store.url
    return Source(uid, name, url, user, password, settings.store.database, settings.store.verify, text)


def _password(settings: Settings) -> str:
    if settings.store.password is None or not settings.store.password.get_secret_value():
        raise UsageError(
            f"no password for the operator's data source: set store.password_file of {settings.store.user!r}"
        )
    return settings.store.password.get_secret_value()


def _webhook(settings: Settings, tenant: str) -> str:
    """Where a customer's alerts go; empty = as its organisation has it."""
    folder = settings.grafana.customer_webhook_dir
    if folder is None:
        return ""
    if not folder.is_dir():
        raise UsageError(f"grafana.customer_webhook_dir: expected a folder of files TENANT.webhook, found {folder}")
    file = folder / f"{tenant}.webhook"
    return file.read_text(encoding="utf-8").strip() if file.exists() else ""


def _tenant_password(settings: Settings, tenant: str) -> str:
    folder = settings.store.tenant_password_dir
    file = folder / f"{tenant}.password" if folder else None
    if file is None or not file.exists():
        raise UsageError(
            f"no password for customer {tenant!r}: expected {file or 'store.tenant_password_dir'}"
            f"{'' if file else ' to be set'}; `gpufleet tenant add {tenant}` makes one"
        )
    return file.read_text(encoding="utf-8").strip()
