"""Train a model on the spectra of finished ingests, by spender_core's trainer."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import storage
from pipeline.catalog import targets
from pipeline.compute.stages.process import device
from pipeline.errors import ConfigError, RefusedError
from pipeline.planning.plan import Plan
from pipeline.spectra.quality import Quality
from pipeline.store.arrays import open_handle, read_region, spectra_url
from pipeline.store.checkpoint import inspect
from pipeline.store.root import ingest_ledger, read_plan, targets_url
from spender_core.autoencoder import SpectrumAutoencoder
from spender_core.instrument import Instrument, get_instrument
from spender_core.model import SpectrumModel
from spender_core.training import History, Settings, SpectrumDataset, fit
from spender_core.weights import load_model

N_LATENT = 8
"""Latents of a new model, unless chosen."""

EXCLUDED_FROM_TRAINING = Quality.UNUSABLE | Quality.NO_NORM | Quality.NEGATIVE_NORM | Quality.FEW_PIXELS
"""Spectra with any of these bits are left out: nothing to learn from, or on another scale."""


@dataclass(frozen=True)
class Sample:
    """The spectra of one run. usable: shape (N,), bool; z: shape (N,)."""

    root: str
    plan: Plan
    z: NDArray[np.float32]
    usable: NDArray[np.bool_]
    data: SpectrumDataset

    @property
    def instrument(self) -> Instrument:
        """The instrument of the run's grid."""
        return get_instrument(self.plan.config.instrument)


def train(
    roots: Sequence[str], output: str, settings: Settings, *, n_latent: int | None = None, start: str | None = None
) -> tuple[int, History]:
    """Train one model on runs of different instruments, which share a decoder.

    output: checkpoint to write, on a local disk; training goes on from it if it is there. start: checkpoint to begin
    with, else random weights with n_latent latents, default N_LATENT. Returns the number of spectra and the history of
    the losses. Raises ConfigError, before the first step, for an output that cannot be written, for runs that are not
    ingested or have no usable spectra, and for n_latent with `start`; WeightsError for `start`.
    """
    if start is not None and n_latent is not None:
        raise ConfigError("--latents", n_latent, "no --latents with --start", "the checkpoint says how many there are")
    checkpoint = _writable_file(output)
    samples = [read_sample(root) for root in roots]
    models = (
        _start_models(samples, start)
        if start is not None
        else _new_models(samples, N_LATENT if n_latent is None else n_latent, settings.seed)
    )
    models_and_data = [(model.to(device()), sample.data) for model, sample in zip(models, samples, strict=True)]
    try:
        history = fit(models_and_data, settings, checkpoint, progress=sys.stderr.isatty())
    except (ValueError, FloatingPointError) as error:
        raise RefusedError("train", f"{', '.join(roots)} cannot be trained on: {error}") from error
    return sum(int(np.count_nonzero(sample.usable)) for sample in samples), history


def read_sample(root: str) -> Sample:
    """Open the spectra of a run for training; only ids, redshifts and quality are read now."""
    plan = read_plan(root)
    missing = len(plan.shards()) - len(ingest_ledger(root, plan).done())
    if missing:
        raise ConfigError("ROOT", root, "a run whose spectra are ingested", f"{missing} chunks are not: run ingest")
    rows = targets.read_rows(targets_url(root), 0, plan.n_spectra, plan.survey)
    url = spectra_url(root)
    quality = read_region(url, ["quality"], 0, plan.n_spectra)["quality"]
    usable = (quality & np.uint32(EXCLUDED_FROM_TRAINING)) == 0
    if not usable.any():
        remedy = "spender-pipeline status says what is wrong with its spectra"
        raise ConfigError("ROOT", root, "a run with usable spectra", remedy)
    handle = open_handle(url)
    z = rows["z"].to_numpy(np.float32)
    column = plan.survey.lookup.id_column
    ids = _ids([0] * len(rows) if column is None else rows[column].tolist(), rows["target"].tolist())
    data = SpectrumDataset(handle.array("flux"), handle.array("ivar"), z, ids, usable, block=max(plan.shard, 1024))
    return Sample(root, plan, z, usable, data)


def _writable_file(output: str) -> Path:
    """Return the local file of a checkpoint to write. Raises ConfigError for a place that cannot be written."""
    local = storage.local_path(output)
    if local is None:
        raise ConfigError("--output", output, "a file on this machine", "train into a file, then copy it")
    if local.is_dir():
        raise ConfigError("--output", output, "a file, not a folder", "add a name, such as model.pt")
    storage.require_writable("--output", str(local.parent))
    return local


def _ids(own_ids: Sequence[int], target: Sequence[str]) -> NDArray[np.uint64]:
    """Give each spectrum the number that decides its side of the split; where it has none, one made of its key."""

    def made(key: str) -> int:
        return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")

    return np.array([own or made(key) for own, key in zip(own_ids, target, strict=True)], dtype=np.uint64)


def _start_models(samples: Sequence[Sample], start: str) -> list[SpectrumModel]:
    for sample in samples:
        inspect(start, sample.plan.config.instrument)
    models = [load_model(start, sample.instrument)[0] for sample in samples]
    for model in models[1:]:
        model.decoder = models[0].decoder
    return models


def _new_models(samples: Sequence[Sample], n_latent: int, seed: int) -> list[SpectrumModel]:
    """Make untrained models over all restframe wavelengths that the samples see, with bins as fine as observed."""
    if n_latent < 1:
        raise ConfigError("--latents", n_latent, "at least 1")
    z = np.concatenate([sample.z[sample.usable] for sample in samples])
    waves = [sample.instrument.wave_obs for sample in samples]
    blue = min(float(wave[0]) for wave in waves) / (1 + float(z.max()))
    red = max(float(wave[-1]) for wave in waves) / (1 + float(z.min()))
    bins = max(int(len(wave) * (1 + float(z.max()))) for wave in waves)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # One step in logarithm, like the observed grids: every line is sampled alike.
        wave_rest = torch.logspace(float(np.log10(blue)), float(np.log10(red)), bins)
        models: list[SpectrumModel] = [
            SpectrumAutoencoder(sample.instrument, wave_rest, n_latent) for sample in samples
        ]
    for model in models[1:]:
        model.decoder = models[0].decoder
    return models
