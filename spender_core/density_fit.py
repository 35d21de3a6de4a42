"""Train a density of latents: one file, whole at any time, from which a run that was stopped goes on bit for bit."""

from __future__ import annotations

import hashlib
import io
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .density import FORMAT, VERSION, Density, Percentiles, density_of, probe, spline_flow, unpacked
from .flow import SplineFlow, make_gaussian, whitening_of
from .settings import Stopped
from .training_file import TrainingFile
from .weights import WeightsError

SCORED = 2**17
"""Spectra of each part of the sample that validation and the tables of percentiles take, at most."""

_AT_ONCE = 4096


@dataclass(frozen=True)
class FlowSettings:
    """What a density is made of; training goes on only under the same settings.

    epochs: at most; the learning rate falls from `lr` to 0 over them. steps: of an epoch, in which a small sample is
    gone through several times, and a part of a large one. batch_size: spectra per step, fewer of a small sample.
    patience: epochs without a better log p of what is held out after which training ends, with the best weights.
    members: flows, each from its own random weights, whose densities are averaged. bins, transforms, hidden: see
    `SplineFlow`. ValueError for values out of range.
    """

    epochs: int = 16
    steps: int = 128
    batch_size: int = 1024
    lr: float = 5e-3
    patience: int = 4
    seed: int = 0
    members: int = 1
    bins: int = 8
    transforms: int = 3
    hidden: tuple[int, ...] = (64, 64)

    def __post_init__(self) -> None:
        for key in ("epochs", "steps", "batch_size", "patience", "members", "bins", "transforms"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} is {getattr(self, key)!r}, expected at least 1")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr is {self.lr!r}, expected a positive number")


@dataclass(frozen=True)
class FlowSample:
    """The latents of a sample. latents: shape (N, S), float32, finite. held_out: shape (N,), bool, not learnt from.

    sn: shape (N,), S/N of the spectra, NaN where it is not known. model_sha256: of the checkpoint that gave the
    latents. facts: what the file says of the sample, plain values.
    """

    latents: NDArray[np.float32]
    held_out: NDArray[np.bool_]
    sn: NDArray[np.float32]
    model_sha256: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Hash of what is learnt from, and of what it is judged by."""
        digest = hashlib.sha256(f"{self.model_sha256}{self.latents.shape}".encode())
        for array in (self.latents, self.held_out, self.sn):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class FlowEpoch:
    """An epoch that is over: member and epoch, from 0, of so many; mean log p of the two parts of the sample.

    lr: learning rate of the last step. seconds: since it began or was resumed. is_best: whether no earlier epoch of the
    member has a better log p of what is held out.
    """

    member: int
    members: int
    epoch: int
    epochs: int
    train: float
    valid: float
    lr: float
    seconds: float
    is_best: bool


class _Trainer:
    """The state of a training run, and its steps."""

    def __init__(self, sample: FlowSample, settings: FlowSettings, file: TrainingFile) -> None:
        self._file, self._settings = file, settings
        self.train = torch.from_numpy(sample.latents[~sample.held_out])
        self.valid = torch.from_numpy(sample.latents[sample.held_out])
        if not len(self.valid):
            raise ValueError("no spectrum is held out to judge by: the sample is too small")
        mean, whitening = whitening_of(self.train)
        own = {"bins": settings.bins, "transforms": settings.transforms, "hidden": list(settings.hidden)}
        self.entries: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "model_sha256": sample.model_sha256,
            "mean": mean,
            "whitening": whitening,
            "arguments": {**own, "members": settings.members},
            "settings": {**asdict(settings), "hidden": list(settings.hidden)},
            "sample": {
                **sample.facts,
                "sha256": sample.sha256,
                "training": len(self.train),
                "held_out": len(self.valid),
            },
            "history": {"member": [], "train": [], "valid": []},
            "versions": {name: metadata.version(name) for name in ("torch", "zuko")},
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.flow = spline_flow(self.entries)
        self.batch = max(1, min(settings.batch_size, len(self.train) // 8))
        self.y = self.flow.whitened(self.train)
        self.y_valid = self.flow.whitened(self.valid[_some(len(self.valid))])
        self.member = self.epoch = self.step = 0
        self.total = 0.0
        self.best = -math.inf
        self.since = 0  # epochs since the best one
        self.weights: dict[str, Tensor] = {}
        self.optimizer = self._new_optimizer()

    def _new_optimizer(self) -> torch.optim.Adam:
        return torch.optim.Adam(self.flow.members[self.member].parameters(), self._settings.lr)

    def resume(self, entries: Mapping[str, Any]) -> None:
        """Go on from what `save` wrote."""
        progress = entries["progress"]
        self.flow.load_state_dict(entries["state"])
        for key in _PROGRESS:
            setattr(self, key, progress[key])
        for key, values in self.entries["history"].items():
            values[:] = entries["history"][key]
        self.optimizer = self._new_optimizer()
        self.optimizer.load_state_dict(progress["optimizer"])

    def save(self) -> None:
        """Write the state as it is."""
        progress = {**{key: getattr(self, key) for key in _PROGRESS}, "optimizer": self.optimizer.state_dict()}
        self._write({**self.entries, "state": self.flow.state_dict(), "progress": progress})

    def finish(self, sample: FlowSample) -> None:
        """Write the density, with its tables of percentiles."""
        tables = {}
        for key, own in (("held_out", sample.held_out), ("training", ~sample.held_out)):
            rows = np.flatnonzero(own)
            rows = rows[_some(len(rows)).numpy()]
            log_prob = scored(self.flow, torch.from_numpy(sample.latents[rows])).numpy()
            tables[key] = Percentiles.of(log_prob, sample.sn[rows]).to_entries()
        self._write({**self.entries, "state": self.flow.state_dict(), **tables, "probe": probe(self.flow)})

    def _write(self, entries: dict[str, Any]) -> None:
        stream = io.BytesIO()
        torch.save(entries, stream)
        self._file.write(stream.getvalue())

    def run_epoch(self, stop: Callable[[], bool]) -> FlowEpoch:
        """Do the steps of the epoch that are left. Raises Stopped, when all is saved."""
        began = time.monotonic()
        settings = self._settings
        member = self.flow.members[self.member]
        order = _order(len(self.y), settings.steps * self.batch, (settings.seed, self.member, self.epoch))
        while self.step < settings.steps:
            if stop():
                self.save()
                raise Stopped(self.epoch, self.step)
            rows = order[self.step * self.batch : (self.step + 1) * self.batch]
            self._set_rate()
            self.optimizer.zero_grad()
            loss = -member().log_prob(self.y[rows]).mean()
            if not torch.isfinite(loss):
                raise FloatingPointError(f"log p is not finite in epoch {self.epoch + 1}: lower the learning rate")
            loss.backward()
            nn.utils.clip_grad_norm_(member.parameters(), 5.0)
            self.optimizer.step()
            self.total -= float(loss.detach())
            self.step += 1
        return self._judged(member, time.monotonic() - began)

    def _set_rate(self) -> None:
        done = (self.epoch + self.step / self._settings.steps) / self._settings.epochs
        for group in self.optimizer.param_groups:
            group["lr"] = self._settings.lr * 0.5 * (1 + math.cos(math.pi * done))

    def _judged(self, member: nn.Module, seconds: float) -> FlowEpoch:
        """Judge an epoch by what is held out, keep the best weights, and move on to the next epoch or member."""
        volume = float(torch.linalg.slogdet(self.flow.whitening).logabsdet)
        if self.epoch == 0:  # before the first, the member was the Gaussian of the sample
            gaussian = -0.5 * (self.y_valid.double() ** 2).sum(dim=1) - 0.5 * self.flow.n_latent * math.log(2 * math.pi)
            self.best, self.since = float(gaussian.mean()), 0
            self.weights = {}
        valid = float(_of_member(member, self.y_valid).double().mean())
        is_best = valid > self.best
        self.since = 0 if is_best else self.since + 1
        if is_best:
            self.best = valid
            self.weights = {key: value.clone() for key, value in member.state_dict().items()}
        lr = float(self.optimizer.param_groups[0]["lr"])
        train = self.total / self._settings.steps + volume
        report = FlowEpoch(
            self.member,
            self._settings.members,
            self.epoch,
            self._settings.epochs,
            train,
            valid + volume,
            lr,
            seconds,
            is_best,
        )
        for key, value in (("member", self.member), ("train", train), ("valid", valid + volume)):
            self.entries["history"][key].append(value)
        self.epoch, self.step, self.total = self.epoch + 1, 0, 0.0
        if self.epoch == self._settings.epochs or self.since >= self._settings.patience:
            self._end_member(member)
        return report

    def _end_member(self, member: nn.Module) -> None:
        if self.weights:
            member.load_state_dict(self.weights)
        else:
            make_gaussian(member)
        self.member, self.epoch, self.since, self.weights = self.member + 1, 0, 0, {}
        if self.member < self._settings.members:
            self.optimizer = self._new_optimizer()

    @property
    def is_done(self) -> bool:
        """Whether all members are trained."""
        return self.member == self._settings.members


_PROGRESS = ("member", "epoch", "step", "total", "best", "since", "weights")

_SAME = {"model_sha256": "another model's latents", "sample": "another sample", "settings": "other settings"}


def fit_density(
    sample: FlowSample,
    settings: FlowSettings,
    file: TrainingFile,
    *,
    on_epoch: Callable[[FlowEpoch], None] = lambda report: None,
    stop: Callable[[], bool] = lambda: False,
) -> Density:
    """Train a density, and write it to a file; go on from the file if it is there, or return what it holds when done.

    The same sample and settings give the same bytes on the same machine, interrupted or not. stop: is asked before each
    step; then all is saved. Raises Stopped, ValueError for a file of another sample or other settings and for samples
    that are too small, WeightsError for a file that is no density, FloatingPointError when training diverges.
    """
    trainer = _Trainer(sample, settings, file)
    if file.exists():
        data = file.read()
        entries = unpacked(data, str(file))
        if entries.get("format") != FORMAT:
            raise WeightsError(f"{file} is another kind of file: choose another output, or remove it")
        for key, other in _SAME.items():
            if entries.get(key) != trainer.entries[key]:
                raise ValueError(f"{file} holds a density of {other}: choose another output, or remove it")
        if "progress" not in entries:
            return density_of(data, str(file))
        trainer.resume(entries)
    while not trainer.is_done:
        on_epoch(trainer.run_epoch(stop))
        if not trainer.is_done:
            trainer.save()
    trainer.finish(sample)
    return density_of(file.read(), str(file))


@torch.inference_mode()
def scored(flow: SplineFlow, latents: Tensor) -> Tensor:
    """Return log p of latents, shape (N, S) -> (N,), in pieces."""
    return torch.cat([flow.log_prob(piece) for piece in torch.split(latents, _AT_ONCE)])


@torch.inference_mode()
def _of_member(member: nn.Module, y: Tensor) -> Tensor:
    """Return log p of whitened latents, in pieces."""
    return torch.cat([member().log_prob(piece) for piece in torch.split(y, _AT_ONCE)])


def _order(n: int, size: int, seeds: tuple[int, int, int]) -> Tensor:
    """Return so many rows of n, in random order; each comes once before any comes again."""
    seed, member, epoch = seeds
    random = torch.Generator().manual_seed((seed * 1009 + member) * 100_003 + epoch)
    passes = [torch.randperm(n, generator=random) for _ in range(-(-size // n))]
    return torch.cat(passes)[:size]


def _some(n: int) -> Tensor:
    """Return rows of n, at most SCORED, chosen at random, always the same ones, in order."""
    if n <= SCORED:
        return torch.arange(n)
    return torch.randperm(n, generator=torch.Generator().manual_seed(n))[:SCORED].sort().values
