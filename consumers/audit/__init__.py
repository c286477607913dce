"""Proves, in SQL, that every event is stored exactly once and that every window is what its events say."""

from consumers.audit.audit import audit
from consumers.audit.report import AuditReport, Expected, Finding, Kind

__all__ = ["AuditReport", "Expected", "Finding", "Kind", "audit"]
