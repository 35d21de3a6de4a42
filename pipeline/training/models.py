"""Models to train: new ones for the samples at hand, or those of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.errors import ConfigError, RefusedError, require_place
from pipeline.training.sample import Sample, wave_obs
from spender_core.architectures import describe, get_architecture
from spender_core.autoencoder import SpectrumAutoencoder
from spender_core.instrument import LSF, Instrument, get_instrument
from spender_core.model import SpectrumModel
from spender_core.weights import PUBLISHED, load_model, read_extras

N_LATENT = 8
"""Latents of a new model, unless chosen."""

MOST_TAPS = 101

Range = tuple[float, float]


@dataclass(frozen=True)
class ModelChoice:
    """What a user chose of the models to train.

    start: checkpoint to begin with, a path, URL or published name; it decides all the rest. n_latent: latents of new
    models, default N_LATENT. rest_range: lowest and highest restframe wavelength, Angstrom; default: what the
    instruments see at the first and 99th percentile of the redshifts. superres: restframe bins per observed bin.
    lsf: bins of a line spread function that each instrument learns. lsf_symmetric, lsf_nonnegative: what it is kept.

    Raises ConfigError for values out of range, and for those that a checkpoint to start from decides.
    """

    start: str | None = None
    n_latent: int | None = None
    rest_range: Range | None = None
    superres: int | None = None
    lsf: int | None = None
    lsf_symmetric: bool = False
    lsf_nonnegative: bool = False

    def __post_init__(self) -> None:
        if self.start is not None:
            require_place("--start", self.start)
            reasons: tuple[tuple[str, object, str], ...] = (
                ("--latents", self.n_latent, "the checkpoint says how many there are"),
                ("--rest-range", self.rest_range, "the checkpoint has its restframe wavelengths"),
                ("--superres", self.superres, "the checkpoint has its restframe wavelengths"),
                ("--lsf", self.lsf, "the checkpoint says whether its instruments have a line spread function"),
            )
            for key, value, reason in reasons:
                if value is not None:
                    raise ConfigError(key, value, f"no {key} with --start", reason)
        for key, number in (("--latents", self.n_latent), ("--superres", self.superres)):
            if number is not None and number < 1:
                raise ConfigError(key, number, "at least 1")
        if self.rest_range is not None and not 0 < self.rest_range[0] < self.rest_range[1] < float("inf"):
            raise ConfigError("--rest-range", self.rest_range, "two wavelengths in Angstrom, the lower one first")
        if self.lsf is not None and not (3 <= self.lsf <= MOST_TAPS and self.lsf % 2):
            raise ConfigError("--lsf", self.lsf, f"an odd number of bins from 3 to {MOST_TAPS}", "it has a middle bin")
        for key, asked in (("--lsf-symmetric", self.lsf_symmetric), ("--lsf-nonnegative", self.lsf_nonnegative)):
            if asked and self.lsf is None and self.start is None:
                raise RefusedError(key, f"{key} is given without a line spread function to learn", "give --lsf 5, too")


@dataclass(frozen=True)
class Models:
    """Models that share one decoder, one per sample, and a line for the user about each thing that was decided."""

    models: tuple[SpectrumModel, ...]
    said: tuple[str, ...]


def make_models(samples: Sequence[Sample], choice: ModelChoice, seed: int) -> Models:
    """Return the models to train on samples. Raises ConfigError for choices, WeightsError for a checkpoint.

    seed: of random weights; the random state of the process stays as it is.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = _new(samples, choice) if choice.start is None else _started(samples, choice.start)
    if choice.start is not None and (choice.lsf_symmetric or choice.lsf_nonnegative):
        lsfs = [lsf for lsf in (model.encoder.instrument.lsf for model in made.models) if lsf is not None]
        if not lsfs:
            problem = f"no instrument of {choice.start} has a line spread function to keep symmetric or non-negative"
            raise RefusedError("--start", problem, "leave out --lsf-symmetric and --lsf-nonnegative")
        for lsf in lsfs:
            lsf.symmetric, lsf.nonnegative = choice.lsf_symmetric, choice.lsf_nonnegative
            lsf.project()
    return made


def rest_range(samples: Sequence[Sample]) -> Range:
    """Return the restframe wavelengths, Angstrom, that the instruments see at usual redshifts of their samples.

    Usual: from the first to the 99th percentile of each sample's own. A few wrong redshifts would stretch it far.
    """
    ranges = []
    for sample in samples:
        wave, (low, high) = wave_obs(sample), np.percentile(sample.z, (1, 99))
        ranges.append((wave[0] / (1 + high), wave[-1] / (1 + low)))
    return float(min(blue for blue, _ in ranges)), float(max(red for _, red in ranges))


def _new(samples: Sequence[Sample], choice: ModelChoice) -> Models:
    """Make untrained models, with restframe bins as fine as the finest instrument's, or `superres` times as fine."""
    n_latent = N_LATENT if choice.n_latent is None else choice.n_latent
    superres = 1 if choice.superres is None else choice.superres
    blue, red = choice.rest_range or rest_range(samples)
    for sample in samples:
        wave, z = wave_obs(sample), sample.z
        if wave[0] / (1 + z.max()) > red or wave[-1] / (1 + z.min()) < blue:
            problem = (
                f"{sample.instrument} sees nothing of {blue:.0f}-{red:.0f} Angstrom at the redshifts of its spectra"
            )
            raise RefusedError("--rest-range", problem, "choose another --rest-range")
    # One step in logarithm, like the grids of SDSS: every line is sampled alike.
    step = min(np.log10(wave[-1] / wave[0]) / (len(wave) - 1) for wave in map(wave_obs, samples)) / superres
    bins = int(np.ceil(np.log10(red / blue) / step - 1e-6)) + 1
    wave_rest = torch.logspace(float(np.log10(blue)), float(np.log10(red)), bins)
    models: list[SpectrumModel] = [
        SpectrumAutoencoder(_instrument(sample, choice), wave_rest, n_latent) for sample in samples
    ]
    how = "--rest-range" if choice.rest_range else "instruments, and redshifts from their 1st to 99th percentile"
    finer = f", {superres} per observed bin" if superres > 1 else ""
    said = [f"restframe: {blue:.0f}-{red:.0f} Angstrom ({how}), {bins} bins{finer}"]
    return Models(_sharing(models), (*said, f"latents: {n_latent}"))


def _instrument(sample: Sample, choice: ModelChoice) -> Instrument:
    instrument = get_instrument(sample.instrument)
    if choice.lsf is not None:
        instrument.lsf = LSF.delta(choice.lsf, symmetric=choice.lsf_symmetric, nonnegative=choice.lsf_nonnegative)
    return instrument


def _started(samples: Sequence[Sample], start: str) -> Models:
    """Make the models of a checkpoint; an instrument that it does not have gets a new encoder for its decoder."""
    published = PUBLISHED.get(start)
    stored = [published.instrument] if published else list(read_extras(start).get("instruments", []))
    # An old file that names no instrument was made for one grid, which loading it compares.
    known = stored or [samples[0].instrument]
    first, _ = load_model(start, get_instrument(known[0]))
    described = describe(first)
    models, said = [], [f"start: {start}, {first.n_latent} latents, {len(first.wave_rest)} restframe bins"]
    for sample in samples:
        instrument = get_instrument(sample.instrument)
        if sample.instrument in known:
            models.append(load_model(start, instrument)[0])
            continue
        said.append(f"{sample.instrument}: a new encoder; the checkpoint has {', '.join(known)}")
        architecture: Any = get_architecture(described["architecture"])
        models.append(architecture(instrument, first.wave_rest.clone(), **described["arguments"]))
    for model in models:
        model.decoder = first.decoder
    return Models(_sharing(models), tuple(said))


def _sharing(models: Sequence[SpectrumModel]) -> tuple[SpectrumModel, ...]:
    """Give models the decoder of the first one."""
    for model in models[1:]:
        model.decoder = models[0].decoder
    return tuple(models)
