"""Encode a whole spectroscopic survey: archive files in, labeled latents and restframe spectra out.

The names below are imported on first use, so that `import pipeline` alone costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.batch import make_batch
    from pipeline.results import Run, open_run

__version__ = "0.1.0"

__all__ = ["Run", "__version__", "make_batch", "open_run"]

_HOMES = {"make_batch": "pipeline.batch", "Run": "pipeline.results", "open_run": "pipeline.results"}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
