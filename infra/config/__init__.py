"""Settings: what they are (models), where they come from (loading), how they are shown (render)."""

from infra.config.agent import AgentSettings
from infra.config.loading import Settings, load
from infra.config.models import (
    ConsumeSettings,
    EmbeddedSettings,
    KafkaSettings,
    ProjectSettings,
    RegistrySettings,
    RetentionSettings,
    SimulateSettings,
    SiteSettings,
    StoreSettings,
)
from infra.config.runtime import remove_runtime, write_runtime

__all__ = [
    "AgentSettings",
    "ConsumeSettings",
    "EmbeddedSettings",
    "KafkaSettings",
    "ProjectSettings",
    "RegistrySettings",
    "RetentionSettings",
    "Settings",
    "SimulateSettings",
    "SiteSettings",
    "StoreSettings",
    "load",
    "remove_runtime",
    "write_runtime",
]
