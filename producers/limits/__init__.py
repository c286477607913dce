"""Caps and limits of tenants, declared in TOML and kept as a history of events."""
