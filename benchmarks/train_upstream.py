"""Training beside PyPI spender, from the same weights, by the same batches and rates: the losses and times of both.

    python benchmarks/train_upstream.py --work /tmp/train-upstream [--losses all --steps 2000 --batch 16 --device cuda]

Both sides train upstream's default model, of ten latents, on mocks of the SDSS galaxies in --data, made once. For each
seed they begin with the same weights and take turns of --every steps in this process: `spender_core.fit`, and
upstream's model by upstream's losses, torch's Adam and its OneCycleLR, stepped once per batch. --losses all: similarity
and consistency beside fidelity, weighted as by default upstream; both sides are given the same altered copies.

Shown are, after each turn, its mean training loss and the loss of mocks that are kept for validation, means over the
seeds; then the last validation loss of each seed, and whether our mean is above upstream's by more than 2 % and by more
than upstream's seeds scatter. The last line is upstream's time over ours, validation and writing included.
Every turn of a side ends with a file in --work, so that the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import warnings
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from galaxies import Basis, MockGalaxies, fit_components, read_components, read_galaxies, rest_grid
from spender import SpectrumAutoencoder as UpstreamAutoencoder
from spender.data.sdss import SDSS as UPSTREAM
from spender.loss import LossConfig, get_losses
from torch import Tensor

from spender_core import SDSS, Augmentation, Batch, Losses, Settings, SpectrumAutoencoder, SpectrumDataset, fit
from spender_core.augment import augmented
from spender_core.dataset import validation
from spender_core.settings import EpochReport

N_LATENT = 10  # upstream's default
TOLERANCE = 0.02  # by which our loss may be higher, if upstream's seeds do not scatter more
CONFIG = LossConfig()
LOSSES = {
    "fidelity": Losses(),
    "all": Losses(CONFIG.similarity_amp, CONFIG.consistency_amp, augmentation=Augmentation.SDSS),
}


@dataclass
class Curve:
    """Turns of a side: the mean training loss of each, and the validation loss after it."""

    train: list[float] = field(default_factory=list)
    valid: list[float] = field(default_factory=list)


class Seconds:
    """How long the turns of both sides took, kept in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._taken: dict[str, dict[str, float]] = {"upstream": {}, "ours": {}}
        if file.exists():
            self._taken = json.loads(file.read_text())

    def note(self, side: str, turn: int, seconds: float) -> None:
        """Keep the time of a turn."""
        self._taken[side][str(turn)] = seconds
        temporary = self._file.with_suffix(".part")
        temporary.write_text(json.dumps(self._taken))
        os.replace(temporary, self._file)

    def totals(self) -> tuple[float, float]:
        """Upstream's seconds and ours, over the turns that are known of both: a kill may have come before the note."""
        theirs, ours = self._taken["upstream"], self._taken["ours"]
        turns = theirs.keys() & ours.keys()
        return sum(theirs[turn] for turn in turns), sum(ours[turn] for turn in turns)


def draw(data: Path, n_train: int, batch: int) -> tuple[Batch, np.ndarray]:
    """Draw mocks of the real galaxies, and ids by which n_train are trained on and an eighth as many are not."""
    galaxies, components = read_galaxies(data), read_components(data)
    coefficients = fit_components(galaxies, components)[0][galaxies.clean]
    basis = Basis.of(coefficients, components)
    mocks = MockGalaxies(galaxies, basis, basis.latents(coefficients), steps=1)
    n_valid = max(n_train // 8 // batch, 1) * batch
    candidates = np.arange(2 * n_train + 16 * n_valid)
    is_valid = validation(candidates)
    ids = np.concatenate([candidates[~is_valid][:n_train], candidates[is_valid][:n_valid]])
    if len(ids) != n_train + n_valid:
        raise SystemExit("too few ids fall to validation: choose a larger --batch or --every")
    return mocks.draw(np.random.default_rng(0), len(ids)), ids


def new_model(seed: int, device: str) -> SpectrumAutoencoder:
    """Make the untrained model that both sides begin with."""
    torch.manual_seed(seed)
    return SpectrumAutoencoder(SDSS(), torch.from_numpy(rest_grid()), N_LATENT).to(device)


class Upstream:
    """Upstream's model in training, a turn after the other."""

    def __init__(
        self, start: SpectrumAutoencoder, data: SpectrumDataset, settings: Settings, losses: Losses, file: Path
    ) -> None:
        self._device = next(start.parameters()).device
        self._data, self._settings, self._losses, self._file = data, settings, losses, file
        self._model = UpstreamAutoencoder(UPSTREAM(), start.wave_rest, n_latent=start.n_latent)
        self._model.load_state_dict(start.state_dict())
        self._model.to(self._device)
        self._optimizer = torch.optim.Adam(self._model.parameters(), settings.lr, eps=settings.eps)
        steps = settings.epochs * data.steps("train", settings.batch_size)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(self._optimizer, settings.lr, total_steps=steps)
        self.curve = Curve()
        if file.exists():
            state = torch.load(file, map_location=self._device, weights_only=True)
            for name, part in self._parts().items():
                part.load_state_dict(state[name])
            self.curve = Curve(**state["curve"])

    def _parts(self) -> dict[str, Any]:
        return {"model": self._model, "optimizer": self._optimizer, "schedule": self._schedule}

    def catch_up(self, turns: int, seconds: Seconds) -> None:
        """Train until so many turns are done."""
        for turn in range(len(self.curve.train), turns):
            began = time.monotonic()
            self.curve.train.append(self._train(turn))
            self.curve.valid.append(self._validate())
            self._save()
            seconds.note("upstream", turn, time.monotonic() - began)

    def _train(self, turn: int) -> float:
        self._model.train()
        total, count = 0.0, 0
        for batch in self._data.batches("train", turn, self._settings.batch_size):
            loss = self._loss(batch, turn)
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            self._schedule.step()
            total, count = total + loss.item(), count + len(batch)
        return total / count

    @torch.no_grad()
    def _validate(self) -> float:
        self._model.eval()
        batches = list(self._data.batches("valid", 0, self._settings.batch_size))
        return sum(self._loss(batch, 0).item() for batch in batches) / sum(map(len, batches))

    def _loss(self, batch: Batch, turn: int) -> Tensor:
        batch = batch.to(self._device)
        instrument, losses = self._model.encoder.instrument, self._losses
        spectra = (batch.spec, batch.w, batch.z)
        copies = None
        if losses.augmentation is not None:
            seed = self._settings.seed
            copies = partial(augmented, *spectra, batch.rows, instrument.wave_obs, losses.augmentation, seed, turn)
        fidelity, similarity, consistency = get_losses(
            self._model,
            instrument,
            spectra,
            aug_fct=None if copies is None else lambda _: copies(),
            similarity=losses.similarity > 0,
            loss_config=CONFIG,
        )
        total: Tensor = fidelity + CONFIG.similarity_amp * similarity + CONFIG.consistency_amp * consistency
        return total

    def _save(self) -> None:
        state = {name: part.state_dict() for name, part in self._parts().items()}
        temporary = self._file.with_suffix(".part")
        torch.save({**state, "curve": asdict(self.curve)}, temporary)
        os.replace(temporary, self._file)


@dataclass(frozen=True)
class Result:
    """Both curves of a seed, and the seconds of both."""

    upstream: Curve
    ours: Curve
    seconds: tuple[float, float]


def compare(
    mocks: Batch, ids: np.ndarray, settings: Settings, losses: Losses, work: Path, device: str = "cpu"
) -> Result:
    """Train both sides in turns, or go on with it."""
    arrays = [tensor.numpy() for tensor in (mocks.spec, mocks.w, mocks.z)]
    data = SpectrumDataset(*arrays, ids, block=len(ids), seed=settings.seed)
    name = f"seed{settings.seed}"
    seconds = Seconds(work / f"{name}-seconds.json")
    model = new_model(settings.seed, device)
    upstream = Upstream(model, data, settings, losses, work / f"{name}-upstream.pt")

    def on_epoch(report: EpochReport) -> None:
        seconds.note("ours", report.epoch, report.seconds)
        upstream.catch_up(report.epoch + 1, seconds)
        theirs, ours = upstream.curve.valid[report.epoch], report.valid["sdss"]
        print(f"{name}, turn {report.epoch + 1} of {report.epochs}: {theirs:.4f}, {ours:.4f}", file=sys.stderr)

    history = fit([(model, data)], settings, work / f"{name}-ours.pt", losses, on_epoch=on_epoch)
    upstream.catch_up(settings.epochs, seconds)  # what an earlier command left undone
    ours = Curve(*([entry["sdss"] for entry in history[split]] for split in ("train", "valid")))
    return Result(upstream.curve, ours, seconds.totals())


def print_curves(results: list[Result], every: int) -> None:
    """Print a row per turn: means over the seeds."""
    print(f"{'':7} {'training':^21} {'validation':^21}")
    print(f"{'steps':>7} {'upstream':>10} {'ours':>10} {'upstream':>10} {'ours':>10}")
    curves = [[r.upstream.train for r in results], [r.ours.train for r in results]]
    curves += [[r.upstream.valid for r in results], [r.ours.valid for r in results]]
    for turn in range(len(results[0].ours.train)):
        means = (statistics.mean(losses[turn] for losses in of_seeds) for of_seeds in curves)
        print(f"{(turn + 1) * every:7d} " + " ".join(f"{mean:10.4f}" for mean in means))


def print_verdict(results: list[Result]) -> None:
    """Print the last validation losses, and what they and the times come to."""
    theirs, ours = ([getattr(r, side).valid[-1] for r in results] for side in ("upstream", "ours"))
    for seed, values in enumerate(zip(theirs, ours, strict=True)):
        print(f"seed {seed}: upstream {values[0]:.4f}, ours {values[1]:.4f}")
    mean, scatter = statistics.mean(theirs), statistics.stdev(theirs) if len(theirs) > 1 else 0.0
    above, allowed = statistics.mean(ours) - mean, max(TOLERANCE * abs(mean), scatter)
    print(f"mean: upstream {mean:.4f}, its seeds scatter by {scatter:.4f}; ours {mean + above:.4f}")
    print(f"ours is above by {above:.4f}, allowed are {allowed:.4f}: {'worse' if above > allowed else 'not worse'}")
    before, after = (sum(r.seconds[i] for r in results) for i in range(2))
    print(f"seconds: upstream {before:.1f}, ours {after:.1f}")
    print(f"ratio: {before / after:.2f}")


def main() -> None:
    """Print curves, verdict and ratio."""
    parser = argparse.ArgumentParser(description="Training beside PyPI spender.")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is under way, 0.3 GB a seed")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with sas/dr17 and templates")
    parser.add_argument("--losses", choices=LOSSES, default="fidelity")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=int, default=100, help="steps of a turn, which are an epoch")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if options.steps % options.every or options.batch < 2:
        parser.error("--steps must be a multiple of --every, and --batch at least 2")
    warnings.simplefilter("ignore")  # upstream's
    torch.set_num_threads(options.threads)
    work = options.work / f"{options.losses}-{options.steps}-by-{options.every}-of-{options.batch}"
    work.mkdir(parents=True, exist_ok=True)
    mocks, ids = draw(options.data, options.every * options.batch, options.batch)
    print(
        f"{options.losses}, {options.steps} steps of {options.batch} spectra, {options.every * options.batch} in all,"
        f" {options.threads} threads, {options.device}, torch {torch.__version__}"
    )
    results = []
    for seed in range(options.seeds):
        settings = Settings(options.steps // options.every, options.batch, lr=1e-3, seed=seed, summed=True)
        results.append(compare(mocks, ids, settings, LOSSES[options.losses], work, options.device))
    print_curves(results, options.every)
    print_verdict(results)


if __name__ == "__main__":
    main()
