"""Encode a whole spectroscopic survey: archive files in, labeled latents and restframe spectra out.

The names below are imported on first use, so that `import pipeline` alone costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from pipeline.version import __version__

if TYPE_CHECKING:
    from pipeline.api import drop_model, estimate, finalize, plan, report, run, select_targets, status, verify
    from pipeline.archive.source import SourceError
    from pipeline.config import StorageConfig, SurveyConfig
    from pipeline.errors import ChunksFailed, ConfigError, Unfinished
    from pipeline.planning.model import ModelConfig
    from pipeline.planning.plan import Plan
    from pipeline.results.batch import make_batch
    from pipeline.results.run import Run, open_run
    from pipeline.results.runs import Runs, open_runs
    from pipeline.results.tables.export import export
    from pipeline.results.tables.spectra import export_spectra
    from pipeline.spectra.raw import BadSpectrum
    from pipeline.storage import AccessError
    from spender_core.weights import WeightsError

_HOMES = {
    "AccessError": "pipeline.storage",
    "BadSpectrum": "pipeline.spectra.raw",
    "ChunksFailed": "pipeline.errors",
    "ConfigError": "pipeline.errors",
    "ModelConfig": "pipeline.planning.model",
    "Plan": "pipeline.planning.plan",
    "Run": "pipeline.results.run",
    "Runs": "pipeline.results.runs",
    "SourceError": "pipeline.archive.source",
    "StorageConfig": "pipeline.config",
    "SurveyConfig": "pipeline.config",
    "Unfinished": "pipeline.errors",
    "WeightsError": "spender_core.weights",
    "drop_model": "pipeline.api",
    "estimate": "pipeline.api",
    "export": "pipeline.results.tables.export",
    "export_spectra": "pipeline.results.tables.spectra",
    "finalize": "pipeline.api",
    "make_batch": "pipeline.results.batch",
    "open_run": "pipeline.results.run",
    "open_runs": "pipeline.results.runs",
    "plan": "pipeline.api",
    "report": "pipeline.api",
    "run": "pipeline.api",
    "select_targets": "pipeline.api",
    "status": "pipeline.api",
    "verify": "pipeline.api",
}

__all__ = [
    "AccessError",
    "BadSpectrum",
    "ChunksFailed",
    "ConfigError",
    "ModelConfig",
    "Plan",
    "Run",
    "Runs",
    "SourceError",
    "StorageConfig",
    "SurveyConfig",
    "Unfinished",
    "WeightsError",
    "__version__",
    "drop_model",
    "estimate",
    "export",
    "export_spectra",
    "finalize",
    "make_batch",
    "open_run",
    "open_runs",
    "plan",
    "report",
    "run",
    "select_targets",
    "status",
    "verify",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
