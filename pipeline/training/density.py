"""Train the density of a model's latents on the encodings of a run, by spender_core's trainer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

import numpy as np
import pandas as pd

from pipeline import signals, storage
from pipeline.compute.stages.process import deterministic
from pipeline.errors import ConfigError, RefusedError, redacted
from pipeline.planning.density import LATENTS, SN
from pipeline.planning.model import ModelConfig
from pipeline.results.run import GOOD, Run, open_run
from pipeline.results.tables.split import split_ids
from pipeline.storage import Place
from pipeline.store.root import encode_ledger
from pipeline.training.output import Output
from spender_core.dataset import SPLIT_RULE, validation
from spender_core.density import Density
from spender_core.density_fit import FlowEpoch, FlowSample, FlowSettings, fit_density
from spender_core.settings import Stopped
from spender_core.weights import WeightsError


@dataclass(frozen=True)
class TrainedDensity:
    """What training came to. training, held_out: number of spectra of both parts of the sample."""

    output: Output
    model: str
    density: Density
    training: int
    held_out: int


def train_density(
    root: Place,
    output: Place,
    model: str | None = None,
    settings: FlowSettings = FlowSettings(),  # noqa: B008 - frozen
    *,
    where: str | None = None,
    stream: TextIO | None = None,
) -> TrainedDensity:
    """Train the density of a model's latents on a run's recommended selection (`Run.good`).

    output: file to write, a path or any fsspec URL; training goes on from it if it is there. model: may be left out
    when the run has one only. where: condition on the columns of its table, beside the selection. stream: where
    progress is shown. Spectra are held out as for the training of models, by a hash of their ids.

    Ctrl-C and SIGTERM save first. Raises ConfigError, before the first step, for an output that cannot be written, a
    run that is not encoded, a sample that is too small and a file of another sample; WeightsError for one that is no
    density.
    """
    file = Output(storage.place(output, "--output"))
    file.require_writable()
    run = open_run(root)
    config = run.model(model)
    sample = read_sample(run, config, where)
    held_out = int(np.count_nonzero(sample.held_out))
    say = _Lines(stream)
    say(f"spectra: {len(sample.latents) - held_out} to learn from, {held_out} held out; {config.n_latent} latents")
    # One thread: its matrices are small, several wait for each other on a busy machine, and bytes depend on the number.
    with _translated(root), deterministic(), signals.noted() as is_asked_to_stop:
        density: Density | None = None
        try:
            density = fit_density(sample, settings, file, on_epoch=say.epoch, stop=is_asked_to_stop)
        except Stopped as stopped:
            after = f"in epoch {stopped.epoch + 1}, after {stopped.step} of its {settings.steps} steps"
            say(f"stopped {after}; saved: {file}")
    if density is None:
        raise AssertionError("the signal that ended training was not raised again")
    return TrainedDensity(file, config.name, density, len(sample.latents) - held_out, held_out)


def read_sample(run: Run, config: ModelConfig, where: str | None = None) -> FlowSample:
    """Read the latents that a density is trained on. Raises ConfigError, as `train_density`."""
    if LATENTS not in config.variables:
        expected = f"a model whose {LATENTS} are stored"
        raise ConfigError("--model", config.name, expected, "plan it again without --variables, in another ROOT")
    missing = len(run.plan.shards()) - len(encode_ledger(run.root, run.plan, config.name).done())
    if missing:
        remedy = f"{missing} chunks are not: run it first"
        raise ConfigError("ROOT", redacted(run.root), f"a run that is encoded by {config.name}", remedy)
    table = run.results(config.name, columns=[LATENTS], where=where, good=True)
    blocks, rows = [], []
    for start, stop in table.bounds:
        block, numbers = table.block(start, stop)
        blocks.append(block[LATENTS].combine_chunks().flatten().to_numpy().reshape(len(numbers), config.n_latent or 1))
        rows.append(numbers)
    latents, row = np.concatenate(blocks), np.concatenate(rows)
    finite = np.isfinite(latents).all(axis=1)
    targets = run.targets().iloc[row[finite]]
    if targets.empty:
        problem = f"no spectrum of {redacted(run.root)} is in {GOOD}" + (f" and fulfils {where!r}" if where else "")
        raise RefusedError("--where" if where else "ROOT", problem, "spender-pipeline status says what is wrong")
    facts = {
        "survey": run.plan.survey.name,
        "instrument": run.plan.config.instrument,
        "encode_fingerprint": run.plan.encode_fingerprint(config.name),
        "targets_sha256": run.plan.targets_sha256,
        "selection": GOOD,
        "where": where,
        "split": SPLIT_RULE,
    }
    held_out = validation(split_ids(targets, run.plan.survey.lookup.id_column))
    return FlowSample(latents[finite], held_out, _sn(targets), config.sha256 or "", facts)


def _sn(targets: pd.DataFrame) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Return the S/N of targets, NaN where the survey does not say it."""
    known = targets[SN].to_numpy(np.float32) if SN in targets else np.full(len(targets), np.nan)
    return np.asarray(known, np.float32)


class _Lines:
    """Shows lines of text, one for each epoch."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def __call__(self, text: str) -> None:
        if self._stream is not None:
            print(text, file=self._stream, flush=True)

    def epoch(self, report: FlowEpoch) -> None:
        """Show an epoch that is over."""
        member = f"member {report.member + 1} of {report.members}, " if report.members > 1 else ""
        best = ", the best so far" if report.is_best else ""
        self(
            f"{member}epoch {report.epoch + 1} of {report.epochs}: mean log p {report.train:.4f} of training, "
            f"{report.valid:.4f} of what is held out{best}; rate {report.lr:.2e}, {report.seconds:.1f} s"
        )


@contextmanager
def _translated(root: Place) -> Iterator[None]:
    """Turn what the trainer refuses into errors for users."""
    try:
        yield
    except (ConfigError, WeightsError):
        raise
    except (ValueError, FloatingPointError) as error:
        problem = f"no density of the latents of {redacted(str(root))} can be trained: {error}"
        raise RefusedError("density", problem) from error
