"""Leases, declared in TOML and kept as a history of events."""
