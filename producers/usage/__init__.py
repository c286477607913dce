"""Tenant usage: request logs of a gateway become windowed events."""
