"""What a file of results says of its origin: the model, fingerprints, versions, sources, licence and how to cite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.errors import redacted
from pipeline.planning.model import ModelConfig
from pipeline.planning.plan import Plan
from pipeline.store.finalize import provenance
from pipeline.store.stores import stores_of
from pipeline.version import __version__

_FROM_STORE = (
    "source",
    "data_release",
    "instrument",
    "model_sha256",
    "precision",
    "device",
    "package_versions",
    "schema_version",
    "targets_sha256",
    "history",
    "license",
    "acknowledgement",
    "references",
)


def header(
    root: str, plan: Plan, model: ModelConfig, done: Iterable[int], entries: Mapping[str, Any]
) -> dict[str, str]:
    """Return what a table of a model's results says of its origin, as text by key; without times and places.

    done: the chunks that it is made of. entries: of the model's checkpoint, whose licence is kept.
    """
    (store,) = (each for each in stores_of(root, plan) if each.kind == ("encode", model.name))
    attributes = provenance(plan, store, done)
    cite = f"the papers {attributes['references']}; and the survey, by its acknowledgement"
    found = {
        "title": f"Results of the spender model {model.name} on {plan.survey.provenance.title} spectra",
        "model": model.name,
        "checkpoint": redacted(model.checkpoint.rstrip("/").rsplit("/", 1)[-1]),
        **({} if model.density is None else {"density": f"{model.density_label}, SHA-256 {model.density_sha256}"}),
        "model_license": str(entries.get("licence") or "not said by the checkpoint"),
        "fingerprint": plan.encode_fingerprint(model.name),
        "spectra_fingerprint": plan.ingest_fingerprint,
        **{key: str(attributes[key]) for key in _FROM_STORE},
        "cite": cite,
        "comment": f"match rows by {_names(plan)}; latents of different models cannot be compared",
        "creator": f"spender-pipeline {__version__}",
    }
    return _in_one_line(found)


def _names(plan: Plan) -> str:
    """Say by which columns a spectrum is known."""
    number = plan.survey.lookup.id_column
    return f"target or {number}" if number else "target"


def header_of_spectra(root: str, plan: Plan) -> dict[str, str]:
    """Return what a file of spectra without a model says of its origin, as `header` does."""
    store = stores_of(root, plan)[0]
    attributes = provenance(plan, store, store.ledger.done())
    found = {
        "title": f"{plan.survey.provenance.title} spectra",
        "spectra_fingerprint": plan.ingest_fingerprint,
        **{key: str(attributes[key]) for key in _FROM_STORE if key in attributes},
        "cite": "the survey, by its acknowledgement",
        "creator": f"spender-pipeline {__version__}",
    }
    return _in_one_line(found)


def _in_one_line(found: dict[str, str]) -> dict[str, str]:
    return {key: " ".join(text.split()) for key, text in found.items()}
