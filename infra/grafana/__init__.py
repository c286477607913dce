"""Grafana: dashboards and alert rules as code, their provisioning, and the expansion of their queries."""
