"""fit(): train models that share one decoder, on the spectra of any number of instruments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from .dataset import Batches
from .identity import check
from .model import SpectrumModel
from .objective import Losses, Moment, Objective
from .precision import arithmetic
from .settings import EpochReport, History, Settings, Stopped
from .training_file import LocalFile, TrainingFile
from .training_run import Hooks, Run, frozen

__all__ = ["EpochReport", "History", "ModelsAndData", "Settings", "Stopped", "fit"]

FIDELITY = Losses()

ModelsAndData = Sequence[tuple[SpectrumModel, Batches]]


def fit(
    models_and_data: ModelsAndData,
    settings: Settings,
    file: TrainingFile | str | Path | None = None,
    objective: Objective = FIDELITY,
    *,
    extras: dict[str, Any] | None = None,
    on_step: Callable[[Moment], None] | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
    stop: Callable[[], bool] | None = None,
    save_every: float | None = None,
) -> History:
    """Train with Adam; by default on a one-cycle schedule (Smith 2018, arXiv:1803.09820).

    models_and_data: one (model, dataset) per instrument; the models share one decoder and are on one device. file:
    written after every epoch, every `save_every` seconds within one, and on a stop, and resumed if it is there: on a
    CPU, by one process, the result is that of a run without a break, bit for bit. `load_model` reads it. objective:
    what is minimized. extras: entries to keep in the checkpoint beside the model. Parameters with requires_grad False
    stay as they are. on_step is called after each step, on_epoch after each epoch, both by the first process alone.
    stop: asked after each step (on GPUs of several processes, every 20th); if it says True, the run is saved and
    `Stopped` raised.

    settings.epochs may be raised for a run that is resumed, also for one that had ended: from there on, its schedule is
    that of the higher number, at the place that it has reached, as if it had been planned so; steps done stay.

    With torch.distributed initialized, every process calls this with the same arguments and its own device, sees the
    same batches and works on its share of each. The gradient is that of the whole batch, so that any number of
    processes train alike but for rounding. The first process alone reads and writes the file.

    Returns the history: "train" and "valid" have one {instrument: mean loss} per epoch, "train_terms" and "valid_terms"
    one {"instrument term": mean}; also stored in the checkpoint as `losses`. ValueError for models of different
    architectures, without a common decoder, or that a checkpoint cannot describe, for nothing to train, a dataset
    without spectra to train on (or, with patience, to validate on), or a checkpoint of another run: other settings,
    spectra, architecture or objective. FloatingPointError for a loss that is not finite.
    """
    check(models_and_data, settings.batch_size, with_valid=settings.patience is not None)
    if isinstance(file, str | Path):
        file = LocalFile(file)
    torch.manual_seed(settings.seed)
    hooks = Hooks(on_step, on_epoch, stop, save_every)
    with frozen([model for model, _ in models_and_data], settings.freeze):
        run = Run(models_and_data, settings, objective, file, extras or {}, hooks)
        run.resume()
        with arithmetic("float32", run.device):  # around the backward passes, too
            run.train()
    return run.history
