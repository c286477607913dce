"""Every setting there is: name, type, default and meaning. Documentation and the file template derive from here.

Units are in the names (``_s`` seconds, ``_ms``, ``_days``, ``_mb`` = 2**20 bytes). Secrets are ``SecretStr`` and have
a companion ``<name>_file``; they come from files or the environment, never from a settings file or a flag.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from infra.config.agent import AgentSettings
from infra.config.section import Bootstrap, HttpUrl, Section


class SiteSettings(Section):
    """The data centre this process belongs to."""

    name: str = Field("site-1", min_length=1, max_length=64, description="Name stamped on every event.")


class KafkaSettings(Section):
    """The broker: where it is, how to prove who we are, how topics are laid out."""

    bootstrap: Bootstrap = Field("127.0.0.1:9092", description="Brokers to start from, host:port[,host:port ...].")
    client_id: str = Field("gpufleet", description="Name under which the broker logs and limits us.")
    security_protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = Field(
        "plaintext", description="Encryption (ssl) and authentication (sasl)."
    )
    sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "GSSAPI"] = Field(
        "", description="With a sasl_ protocol: how to authenticate."
    )
    sasl_username: str = Field("", description="User for PLAIN and SCRAM.")
    sasl_password: SecretStr | None = Field(None, description="Password for PLAIN and SCRAM.")
    sasl_password_file: Path | None = Field(None, description="File that holds sasl_password.")
    ssl_ca: Path | None = Field(None, description="CA certificates (PEM) that sign the brokers'; else the system's.")
    ssl_certificate: Path | None = Field(None, description="Our certificate (PEM), where brokers ask for one.")
    ssl_key: Path | None = Field(None, description="Private key (PEM) of ssl_certificate.")
    ssl_key_password: SecretStr | None = Field(None, description="Password of ssl_key.")
    ssl_key_password_file: Path | None = Field(None, description="File that holds ssl_key_password.")
    librdkafka: dict[str, str] = Field(
        default_factory=dict,
        description="Any other librdkafka option, passed as it is and last, to the clients that have a use for it.",
    )
    partitions: int = Field(16, ge=1, le=1000, description="Partitions of a telemetry topic when it is created.")
    history_partitions: int = Field(4, ge=1, le=1000, description="Partitions of a history topic when it is created.")
    replication: int = Field(-1, ge=-1, le=9, description="Copies of each partition; -1 = the broker's default.")
    min_insync_replicas: int = Field(
        0, ge=0, le=9, description="Copies that acknowledge a write; 0 = broker's default."
    )
    message_max_bytes: int = Field(4_000_000, ge=100_000, description="Largest message a topic takes.")
    timeout_s: float = Field(10.0, gt=0, description="Patience with administrative requests.")

    @model_validator(mode="after")
    def _complete(self) -> KafkaSettings:
        if self.security_protocol.startswith("sasl") and not self.sasl_mechanism:
            raise ValueError(f"security_protocol {self.security_protocol!r} needs sasl_mechanism")
        if self.sasl_mechanism and not self.security_protocol.startswith("sasl"):
            raise ValueError(
                f"sasl_mechanism {self.sasl_mechanism!r} needs security_protocol sasl_ssl or sasl_plaintext, "
                f"found {self.security_protocol!r}"
            )
        if bool(self.ssl_certificate) != bool(self.ssl_key):
            raise ValueError("ssl_certificate and ssl_key go together, found one without the other")
        return self


class RegistrySettings(Section):
    """A schema registry that speaks the Confluent API. Without a URL the committed catalogue's ids are used."""

    url: HttpUrl = Field("", description="Base URL; empty = no registry.")
    username: str = Field("", description="User for basic authentication.")
    password: SecretStr | None = Field(None, description="Password for basic authentication.")
    password_file: Path | None = Field(None, description="File that holds password.")
    ca: Path | None = Field(None, description="CA certificates (PEM); else the system's.")
    certificate: Path | None = Field(None, description="Our certificate (PEM).")
    key: Path | None = Field(None, description="Private key (PEM) of certificate.")
    timeout_s: float = Field(10.0, gt=0, description="Patience with one request.")


class StoreSettings(Section):
    """ClickHouse, over HTTP."""

    url: HttpUrl = Field(
        "http://127.0.0.1:8123", min_length=1, description="http(s)://host:port of the HTTP interface."
    )
    user: str = Field("gpufleet", description="User of this process.")
    password: SecretStr | None = Field(None, description="Password of user.")
    password_file: Path | None = Field(None, description="File that holds password.")
    admin_user: str = Field(
        "", description="User of commands that change the store (consume, project, audit, migrate ...); empty = user."
    )
    admin_password: SecretStr | None = Field(None, description="Password of admin_user.")
    admin_password_file: Path | None = Field(None, description="File that holds admin_password.")
    database: str = Field("gpufleet", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="Database of all tables.")
    cluster: str = Field("", description="Cluster for ON CLUSTER and Replicated tables; empty = a single server.")
    dictionary_credentials: str = Field(
        "", description="How dictionaries read their source where user `default` may not, e.g. NAME some_collection."
    )
    ca: Path | None = Field(None, description="CA certificates (PEM); else the system's.")
    certificate: Path | None = Field(None, description="Our certificate (PEM), where the server asks for one.")
    key: Path | None = Field(None, description="Private key (PEM) of certificate.")
    verify: bool = Field(True, description="Check the server's certificate.")
    connect_timeout_s: float = Field(5.0, gt=0, description="Patience with a connection.")
    request_timeout_s: float = Field(300.0, gt=0, description="Patience with one request.")
    tenant_password_dir: Path | None = Field(
        None, description="Folder with a file <tenant>.password per tenant: `tenant`, `sql --as` and `grafana` use it."
    )
    tenants_file: Path | None = Field(
        None, description="tenants.toml of an embedded store, for `gpufleet tenant`; empty = a ClickHouse server."
    )

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        parts = urlsplit(self.url)
        return parts.port or (8443 if parts.scheme == "https" else 8123)

    @property
    def secure(self) -> bool:
        return self.url.startswith("https:")


class RetentionSettings(Section):
    """How long each tier is kept. Histories (leases, events, inventory, usage ...) are kept for ever."""

    topic_days: float = Field(3.0, gt=0, description="Telemetry topics in Kafka.")
    raw_days: int = Field(9, ge=2, description="Raw telemetry tables.")
    minute_days: int = Field(100, ge=1, description="Minute rollups.")
    hour_days: int = Field(1096, ge=1, description="Hour rollups.")

    @model_validator(mode="after")
    def _ordered(self) -> RetentionSettings:
        if not self.topic_days < self.raw_days <= self.minute_days <= self.hour_days:
            raise ValueError(
                "expected topic_days < raw_days <= minute_days <= hour_days, so that coarser tiers outlive finer ones; "
                f"found {self.topic_days:g}, {self.raw_days}, {self.minute_days}, {self.hour_days}"
            )
        return self


class ConsumeSettings(Section):
    """The consumer: when it flushes, what it refuses, what it may hold."""

    group_id: str = Field("gpufleet", min_length=1, description="Kafka consumer group.")
    flush_mb: float = Field(64.0, gt=0, description="A partition's batch is inserted at this size (Avro bytes) ...")
    flush_events: int = Field(50_000, ge=1, description="... or this many events ...")
    flush_age_s: float = Field(
        2.0,
        gt=0,
        description="... or this age of its oldest event (slow topics: up to six times that while the store is busy).",
    )
    inserts_per_second: float = Field(
        2.0, gt=0, description="Budget of inserts before that age; one that takes n times 60 ms counts as n."
    )
    horizon_s: float = Field(60.0, ge=0, description="How far commits trail what is stored.")
    quarantine_share_limit: float = Field(
        0.2, gt=0, le=1, description="Stop when more than this share of producers has refused messages."
    )
    future_limit_s: float = Field(600.0, ge=0, description="Event times further ahead of the broker's are refused.")
    past_limit_days: float = Field(
        8.0, gt=0, description="Event times older than this are refused (raw_days less one)."
    )
    memory_mb: int = Field(256, ge=64, description="Bound on messages held in memory.")
    metrics_host: str = Field("127.0.0.1", description="Address of /metrics and /health.")
    metrics_port: int = Field(9464, ge=0, le=65535, description="Port of /metrics and /health; 0 = none.")
    projector: bool = Field(True, description="Run the projector inside `gpufleet consume`.")


class ProjectSettings(Section):
    """The projector: keeps rollups equal to what the events say."""

    tail_s: float = Field(5.0, gt=0, description="How often the live tail is recomputed.")
    minute_grace_s: float = Field(15.0, ge=0, description="Wait after a minute ends before gpu_1m is computed.")
    threads: int = Field(2, ge=1, le=64, description="Store threads per recomputation.")


class SigningSettings(Section):
    """Signed events (docs/signing.md): who signs with which key, and what the consumer asks for."""

    mode: Literal["off", "accept", "require"] = Field(
        "off", description="Consumer: verify nothing; verify what is signed; refuse what is not signed as well."
    )
    modes: dict[str, Literal["accept", "require"]] = Field(
        default_factory=dict, description="The same for single sites, site=mode, while mode is not off."
    )
    required_from: str = Field(
        "", description="Time such as 2026-12-01T00:00:00Z; what the broker appended earlier may be unsigned."
    )
    site_keys: SecretStr | None = Field(None, description="Text of a file of site keys.")
    site_keys_file: Path | None = Field(
        None, description="The site's own keys (`gpufleet keys new`), for consumers and whoever signs for many."
    )
    key: SecretStr | None = Field(None, description="Text of a file of producer keys.")
    key_file: Path | None = Field(
        None, description="Keys handed to this producer (`gpufleet keys derive`); they come before site_keys."
    )

    @field_validator("required_from")
    @classmethod
    def _a_time(cls, text: str) -> str:
        if text and datetime.fromisoformat(text).tzinfo is None:
            raise ValueError("expected a time with its zone, e.g. 2026-12-01T00:00:00Z")
        return text


class SimulateSettings(Section):
    """The fleet simulator."""

    scenario: str = Field("small", description="small, colossus1, or a TOML file.")
    seed: int = Field(1, ge=0, description="Same seed, same fleet, same faults.")
    nodes: int = Field(0, ge=0, description="Nodes to simulate; 0 = as the scenario says.")
    speed: float = Field(1.0, gt=0, description="Simulated seconds per second.")
    state_dir: Path = Field(Path("gpufleet-state"), description="Folder of the journal, the truth and injected faults.")


class EmbeddedSettings(Section):
    """Broker and store of `gpufleet up`."""

    data_dir: Path = Field(Path("gpufleet-data"), description="Folder of everything `up` keeps.")
    store_host: str = Field("127.0.0.1", description="Address the store listens on; loopback unless you change it.")
    store_port: int = Field(
        0, ge=0, le=65535, description="Port of the store; 0 = a free one, kept in the data folder."
    )
    broker_port: int = Field(0, ge=0, le=65535, description="Port of the broker; 0 = a free one.")
    kafka_heap_mb: int = Field(512, ge=256, description="Java heap of `up --broker kafka`.")


class PreviewSettings(Section):
    """The page that shows the dashboards without Grafana."""

    host: str = Field("127.0.0.1", description="Address it listens on; beyond loopback it asks for a token.")
    port: int = Field(3080, ge=0, le=65535, description="Its port; another is taken when this one is in use.")


class GrafanaSettings(Section):
    """The Grafana that `gpufleet grafana` provisions."""

    url: HttpUrl = Field("http://127.0.0.1:3000", min_length=1, description="Its base URL.")
    user: str = Field("admin", description="A server administrator: only one can make customers' organisations.")
    password: SecretStr | None = Field(None, description="Password of user.")
    password_file: Path | None = Field(None, description="File that holds password.")
    token: SecretStr | None = Field(
        None, description="Instead of user: a service account's token, of one organisation."
    )
    token_file: Path | None = Field(None, description="File that holds token.")
    ca: Path | None = Field(None, description="CA certificates (PEM); else the system's.")
    verify: bool = Field(True, description="Check the server's certificate.")
    timeout_s: float = Field(10.0, gt=0, description="Patience with one request.")
    store_url: HttpUrl = Field("", description="ClickHouse as Grafana reaches it; empty = store.url.")
    page_webhook: SecretStr | None = Field(
        None, description="URL that pages go to; unset = who is told stays as it is."
    )
    page_webhook_file: Path | None = Field(None, description="File that holds page_webhook.")
    ticket_webhook: SecretStr | None = Field(None, description="URL that tickets go to; unset = page_webhook.")
    ticket_webhook_file: Path | None = Field(None, description="File that holds ticket_webhook.")
    customer_webhook_dir: Path | None = Field(
        None, description="Folder of files TENANT.webhook: the URL that a customer's alerts go to; no file = as it is."
    )


class Sections(Section):
    """All sections, by name."""

    site: SiteSettings = Field(default_factory=SiteSettings)
    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    registry: RegistrySettings = Field(default_factory=RegistrySettings)
    store: StoreSettings = Field(default_factory=StoreSettings)
    retention: RetentionSettings = Field(default_factory=RetentionSettings)
    consume: ConsumeSettings = Field(default_factory=ConsumeSettings)
    project: ProjectSettings = Field(default_factory=ProjectSettings)
    agent: AgentSettings = Field(default_factory=AgentSettings)
    signing: SigningSettings = Field(default_factory=SigningSettings)
    simulate: SimulateSettings = Field(default_factory=SimulateSettings)
    grafana: GrafanaSettings = Field(default_factory=GrafanaSettings)
    embedded: EmbeddedSettings = Field(default_factory=EmbeddedSettings)
    preview: PreviewSettings = Field(default_factory=PreviewSettings)
