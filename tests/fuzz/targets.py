"""Every target by name: a function of bytes that raises for a broken property, and for nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.fuzz import pipeline, sources

Target = Callable[[bytes], None]
CORPUS = Path(__file__).parent / "corpus"
TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        pipeline.message,
        pipeline.datum,
        pipeline.container,
        pipeline.header,
        pipeline.registry_answer,
        pipeline.statement_text,
        pipeline.body_coding,
        pipeline.native_block,
        sources.exporter_page,
        sources.kernel_log,
        sources.lease_file,
        sources.limit_file,
        sources.request_log,
        sources.spool_files,
        sources.journal_files,
    )
}


def seeds(name: str) -> list[bytes]:
    """Sound inputs of a target that follow the newest schemas and layouts; the others lie in the corpus."""
    return {**pipeline.seeds(), **sources.seeds()}.get(name, [])


def corpus(name: str) -> list[Path]:
    """Sound inputs in files, and what was found: each of those once broke a property."""
    return sorted((CORPUS / name).glob("*"))
