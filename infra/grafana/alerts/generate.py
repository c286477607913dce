"""``python -m infra.grafana.alerts.generate``: writes the provisioning files and the migration of the Xid table."""

from __future__ import annotations

from pathlib import Path

from infra.clickhouse.generate import MIGRATIONS
from infra.grafana.alerts import provision, xid_views
from infra.grafana.alerts.rule import Audience

PROVISIONING = Path(__file__).parent / "provisioning"


def files() -> dict[Path, str]:
    """Path -> text of everything that is made from the tables."""
    made = {PROVISIONING / provision.FILES[audience]: provision.document(audience) for audience in Audience}
    return {**made, MIGRATIONS / xid_views.FILE: xid_views.migration()}


def main() -> None:
    for path, text in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
