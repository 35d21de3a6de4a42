"""The stages of a chunk, and what each is made of."""

from __future__ import annotations

Kind = tuple[str, str | None]
"""What a task does: its stage, and its model (None for ingest)."""

STAGES = ("ingest", "encode", "density")
"""In order; the last of models with a density alone."""


def source_of(kind: Kind) -> Kind | None:
    """Return what must be done before: whose store a task reads; None for ingest."""
    stage, model = kind
    if stage == "ingest":
        return None
    return ("encode", model) if stage == "density" else ("ingest", None)
