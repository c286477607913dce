"""From settings to a connection with the store, for every command that asks it something."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.clickhouse.client import ClickHouse, connect
from infra.clickhouse.render import Render
from infra.config import Settings, StoreSettings
from infra.errors import ConfigError, UnreachableError, UsageError
from producers.checks import tenant_name
from producers.errors import InputError

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client


def clickhouse(store: StoreSettings, *, database: str = "") -> ClickHouse:
    """Where the store is and who asks. ``database`` only for unqualified names: it must exist."""
    return ClickHouse(
        host=store.host,
        port=store.port,
        user=store.user,
        password=store.password.get_secret_value() if store.password else "",
        database=database,
        secure=store.secure,
        verify=store.verify,
        ca_cert=str(store.ca or ""),
        client_cert=str(store.certificate or ""),
        client_key=str(store.key or ""),
        connect_timeout_s=store.connect_timeout_s,
        read_timeout_s=store.request_timeout_s,
    )


def connect_store(settings: Settings, *, database: str = "", tenant: str = "", admin: bool = False) -> Client:
    """A client for the store: as the configured user, as a tenant's, or as the one that may change it.

    UnreachableError when nothing answers or the credentials are refused; UsageError for a tenant without credentials.
    """
    store = settings.store if not tenant else as_tenant(settings.store, tenant)
    if admin:
        store = as_admin(store)
    try:
        return connect(clickhouse(store, database=database))
    except UnreachableError:
        if settings.origin("store.url") != "default":
            raise
        raise UnreachableError(
            "no `gpufleet up` runs on ./gpufleet-data and store.url is not set: start one, name its folder with "
            f"--data, or set store.url (nothing useful answers at {store.url})"
        ) from None


def as_admin(store: StoreSettings) -> StoreSettings:
    """The store with the user that may change it; the same as before where none is set apart."""
    if not store.admin_user:
        return store
    password = store.admin_password.get_secret_value() if store.admin_password else ""
    return StoreSettings.model_validate({**store.model_dump(), "user": store.admin_user, "password": password})


def check_tenant(name: str) -> None:
    """UsageError with the rule for a name that no tenant can have."""
    try:
        tenant_name(name)
    except InputError as error:
        raise UsageError(str(error)) from None


def as_tenant(store: StoreSettings, tenant: str) -> StoreSettings:
    """The store with a tenant's own user and password, from ``store.tenant_password_dir``.

    A tenant's user bears the tenant's name: what it reads is decided by the engine, not here. UsageError for a name
    that no tenant can have: it is part of a path.
    """
    check_tenant(tenant)
    folder = store.tenant_password_dir
    if folder is None:
        raise ConfigError(
            f"no credentials for tenant {tenant!r}: set store.tenant_password_dir to the folder that holds "
            f"{tenant}.password"
        )
    known = sorted(path.name.removesuffix(".password") for path in folder.glob("*.password"))
    if tenant not in known:
        raise UsageError(
            f"no credentials for tenant {tenant!r}: expected {folder / tenant}.password, "
            f"found those of {', '.join(known) or 'nobody'}"
        )
    try:
        password = (folder / f"{tenant}.password").read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {folder / tenant}.password: {error}") from None
    return StoreSettings.model_validate({**store.model_dump(), "user": tenant, "password": password})


def render(settings: Settings) -> Render:
    """What the migrations' SQL takes from the settings."""
    return Render(
        raw_days=settings.retention.raw_days,
        minute_days=settings.retention.minute_days,
        hour_days=settings.retention.hour_days,
        cluster=settings.store.cluster,
        dictionary_credentials=settings.store.dictionary_credentials,
    )
