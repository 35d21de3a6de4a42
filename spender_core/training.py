"""fit(): train models that share one decoder, on the spectra of any number of instruments."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .architectures import DEFAULT, describe
from .model import SpectrumModel
from .precision import arithmetic

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # a notebook without ipywidgets gets a bar of text, and needs no advice
    from tqdm.auto import tqdm

Split = Literal["train", "valid"]
VALID_FRACTION = 0.15


@dataclass(frozen=True)
class Batch:
    """Spectra to learn from.

    spec, w: shape (N, L), normalized spectra and inverse variances; z: shape (N,);
    s: shape (N, S), the latents where they are known, as for mock spectra.
    """

    spec: Tensor
    w: Tensor
    z: Tensor
    s: Tensor | None = None


class Batches(Protocol):
    """Where batches come from: arrays, a Zarr store, or a generator of mock spectra.

    identity: what the batches are made of; a training run goes on only with the same.
    """

    identity: str

    def steps(self, split: Split, batch_size: int) -> int:
        """Count the batches of an epoch."""

    def batches(self, split: Split, epoch: int, batch_size: int) -> Iterator[Batch]:
        """Yield the batches of an epoch; the same epoch yields the same batches again."""


Loss = Callable[[SpectrumModel, Batch], Tensor]


def fidelity_loss(model: SpectrumModel, batch: Batch) -> Tensor:
    """Mean fidelity loss of a batch, on the model's own instrument."""
    return model.loss(batch.spec, batch.w, z=batch.z) / len(batch.spec)


def validation(specobjid: NDArray[np.integer[Any]], fraction: float = VALID_FRACTION) -> NDArray[np.bool_]:
    """Mark the spectra kept for validation, by a hash of their ids: shape (N,) -> bool, shape (N,).

    A spectrum stays on its side whatever else is in the sample, on any machine.
    """
    bound = int(fraction * 2**64)
    digests = (hashlib.blake2b(int(i).to_bytes(16, "little", signed=True), digest_size=8) for i in specobjid)
    return np.fromiter((int.from_bytes(d.digest(), "little") < bound for d in digests), bool, len(specobjid))


class SpectrumDataset:
    """Spectra held in arrays, or in Zarr arrays that are read block by block.

    flux, ivar: shape (N, L), anything that slices to float arrays. z: shape (N,). specobjid: shape (N,), integers.
    usable: shape (N,), bool, spectra to learn from, default all. Blocks of consecutive rows are visited in random
    order and shuffled within, so that a sharded store is read in whole chunks.
    """

    def __init__(
        self,
        flux: Any,  # noqa: ANN401 - numpy, torch or zarr array: all that is asked is slicing
        ivar: Any,  # noqa: ANN401
        z: NDArray[np.floating[Any]],
        specobjid: NDArray[np.integer[Any]],
        usable: NDArray[np.bool_] | None = None,
        block: int = 4096,
        seed: int = 0,
    ) -> None:
        n = len(z)
        if not flux.shape[0] == ivar.shape[0] == len(specobjid) == n:
            raise ValueError(
                f"flux, ivar, z and specobjid have {flux.shape[0]}, {ivar.shape[0]}, {n} and {len(specobjid)} rows,"
                " expected the same number"
            )
        self._flux, self._ivar, self._z = flux, ivar, np.asarray(z, np.float32)
        self._block, self._seed = block, seed
        kept = np.ones(n, bool) if usable is None else np.asarray(usable, bool)
        valid = validation(specobjid)
        self._rows: dict[Split, NDArray[np.intp]] = {
            "train": np.flatnonzero(kept & ~valid),
            "valid": np.flatnonzero(kept & valid),
        }
        made_of = (np.asarray(specobjid, np.uint64), self._z, kept, np.array([block, seed]))
        self.identity = hashlib.sha256(b"".join(part.tobytes() for part in made_of)).hexdigest()

    def steps(self, split: Split, batch_size: int) -> int:
        """Count the batches of an epoch; the last ones of a block may be short."""
        counts = np.bincount(self._rows[split] // self._block)
        return int(np.sum(-(-counts // batch_size)))

    def batches(self, split: Split, epoch: int, batch_size: int) -> Iterator[Batch]:
        """Yield the batches of an epoch: shuffled for training, in order for validation."""
        rng = np.random.default_rng((self._seed, epoch)) if split == "train" else None
        rows = self._rows[split]
        blocks = np.unique(rows // self._block)
        for block in rng.permutation(blocks) if rng else blocks:
            inside = rows[rows // self._block == block]
            start, stop = int(inside[0]), int(inside[-1]) + 1
            flux = np.asarray(self._flux[start:stop], np.float32)
            ivar = np.asarray(self._ivar[start:stop], np.float32)
            order = rng.permutation(inside) if rng else inside
            for i in range(0, len(order), batch_size):
                take = order[i : i + batch_size]
                yield Batch(
                    torch.from_numpy(flux[take - start]),
                    torch.from_numpy(ivar[take - start]),
                    torch.from_numpy(self._z[take]),
                )


@dataclass(frozen=True)
class Settings:
    """What a training run is made of; a checkpoint is resumed only under the same ones.

    lr: peak of the one-cycle schedule. bf16: convolutions and matrix products in bfloat16 where that is safe.
    """

    epochs: int
    batch_size: int = 64
    lr: float = 1e-3
    seed: int = 0
    bf16: bool = False


ModelsAndData = Sequence[tuple[SpectrumModel, Batches]]
History = dict[str, list[dict[str, float]]]


def fit(
    models_and_data: ModelsAndData,
    settings: Settings,
    checkpoint: str | Path | None = None,
    loss: Loss = fidelity_loss,
    progress: bool = True,
    extras: dict[str, Any] | None = None,
) -> History:
    """Train with Adam on a one-cycle schedule (Smith 2018, arXiv:1803.09820).

    models_and_data: one (model, dataset) per instrument; the models share one decoder. checkpoint: a local file,
    written after every epoch and resumed if it is there; `load_model` reads it. loss: mean loss of a batch.
    extras: entries to keep in the checkpoint beside the model. Parameters with requires_grad False stay as they are.

    Returns the history, {"train": [...], "valid": [...]} with one {instrument: mean loss} per epoch, also stored in
    the checkpoint as `losses`. ValueError for models of different architectures, without a common decoder, or that a
    checkpoint cannot describe, a dataset without spectra to train on, or a checkpoint of another run: other settings,
    spectra, architecture or loss.
    """
    _check(models_and_data, settings)
    torch.manual_seed(settings.seed)
    parameters = {id(p): p for model, _ in models_and_data for p in model.parameters() if p.requires_grad}
    optimizer = torch.optim.Adam(list(parameters.values()), lr=settings.lr)
    steps = sum(data.steps("train", settings.batch_size) for _, data in models_and_data)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=max(settings.epochs * steps, 1))
    history: History = {"train": [], "valid": []}
    run = _Run(models_and_data, settings, loss, optimizer, scheduler)
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and path.exists():
        history = run.resume(path)

    total, done = settings.epochs * steps, len(history["train"]) * steps
    # around the backward passes, too
    with (
        arithmetic("float32", _device(models_and_data[0][0])),
        tqdm(total=total, initial=done, disable=not progress) as bar,
    ):
        for epoch in range(len(history["train"]), settings.epochs):
            history["train"].append(_epoch(models_and_data, settings, epoch, loss, optimizer, scheduler, bar))
            history["valid"].append(_validate(models_and_data, settings, epoch, loss))
            bar.set_postfix({f"{k} valid": f"{v:.4g}" for k, v in history["valid"][-1].items()})
            if path is not None:
                run.save(path, history, extras or {})
    return history


def _check(models_and_data: ModelsAndData, settings: Settings) -> None:
    if not models_and_data:
        raise ValueError("models_and_data is empty, expected at least one (model, dataset)")
    descriptions = [describe(model) for model, _ in models_and_data]
    different = [other for other in descriptions if other != descriptions[0]]
    if different:
        raise ValueError(
            f"the models are {descriptions[0]} and {different[0]}, expected the same architecture and arguments for all"
        )
    if any(model.decoder is not models_and_data[0][0].decoder for model, _ in models_and_data):
        raise ValueError("the models have different decoders, expected one decoder shared by all instruments")
    names = [model.encoder.instrument.name for model, _ in models_and_data]
    if len(set(names)) < len(names):
        raise ValueError(f"instruments {names} repeat, expected one model per instrument")
    empty = [
        name for name, (_, s) in zip(names, models_and_data, strict=True) if not s.steps("train", settings.batch_size)
    ]
    if empty:
        raise ValueError(
            f"no spectra to train on for {', '.join(empty)}: none is usable, or all are kept for validation"
            " (a hash of each id decides: check that the ids are distinct)"
        )


def _name(model: SpectrumModel) -> str:
    return model.encoder.instrument.name


def _interleave(
    models_and_data: ModelsAndData, settings: Settings, epoch: int
) -> Iterator[tuple[SpectrumModel, Batch]]:
    """Visit the instruments' batches in proportion to their number, in an order fixed by the seed."""
    rng = np.random.default_rng((settings.seed, epoch, 1))
    counts = [data.steps("train", settings.batch_size) for _, data in models_and_data]
    queue = rng.permutation(np.repeat(np.arange(len(models_and_data)), counts))
    streams = [data.batches("train", epoch, settings.batch_size) for _, data in models_and_data]
    for i in queue:
        yield models_and_data[i][0], next(streams[i])


def _device(model: SpectrumModel) -> torch.device:
    return model.wave_rest.device


def _to(batch: Batch, device: torch.device) -> Batch:
    s = None if batch.s is None else batch.s.to(device)
    return Batch(batch.spec.to(device), batch.w.to(device), batch.z.to(device), s)


def _evaluate(loss: Loss, model: SpectrumModel, batch: Batch, settings: Settings) -> Tensor:
    device = _device(model)
    with arithmetic("bf16" if settings.bf16 else "float32", device):
        return loss(model, _to(batch, device))


def _epoch(
    models_and_data: ModelsAndData,
    settings: Settings,
    epoch: int,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    bar: tqdm[Any],
) -> dict[str, float]:
    totals: dict[str, list[float]] = {_name(model): [0.0, 0.0] for model, _ in models_and_data}
    for model, _ in models_and_data:
        model.train()
    for model, batch in _interleave(models_and_data, settings, epoch):
        optimizer.zero_grad()
        value = _evaluate(loss, model, batch, settings)
        if not torch.isfinite(value):
            raise FloatingPointError(
                f"loss is {value.item()} in epoch {epoch} on {_name(model)}: look for non-finite spectra or weights,"
                " or lower the learning rate"
            )
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
        bar.update()
        total = totals[_name(model)]
        total[0] += value.item() * len(batch.spec)
        total[1] += len(batch.spec)
    return {name: total / n for name, (total, n) in totals.items() if n}


@torch.no_grad()
def _validate(models_and_data: ModelsAndData, settings: Settings, epoch: int, loss: Loss) -> dict[str, float]:
    means: dict[str, float] = {}
    for model, data in models_and_data:
        model.eval()
        total, n = 0.0, 0
        for batch in data.batches("valid", epoch, settings.batch_size):
            total += _evaluate(loss, model, batch, settings).item() * len(batch.spec)
            n += len(batch.spec)
        if n:
            means[_name(model)] = total / n
    return means


@dataclass(frozen=True)
class _Run:
    """A training run as its checkpoint keeps it."""

    models_and_data: ModelsAndData
    settings: Settings
    loss: Loss
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler

    def identity(self) -> dict[str, Any]:
        """Name what must be the same for a checkpoint to be resumed."""
        models = [model for model, _ in self.models_and_data]
        return {
            **asdict(self.settings),
            "instruments": [_name(model) for model in models],
            "spectra": [data.identity for _, data in self.models_and_data],
            "latents": models[0].n_latent,
            "restframe bins": len(models[0].wave_rest),
            "restframe": hashlib.sha256(models[0].wave_rest.cpu().numpy().tobytes()).hexdigest(),
            "loss": self.loss.__qualname__,
            **describe(models[0]),
        }

    def save(self, path: Path, history: History, extras: dict[str, Any]) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            **extras,
            **describe(self.models_and_data[0][0]),
            "model": [model.state_dict() for model, _ in self.models_and_data],
            "losses": history,
            "instruments": [_name(model) for model, _ in self.models_and_data],
            "training": {
                "identity": self.identity(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "rng": torch.get_rng_state(),
            },
        }
        temporary = path.with_name(path.name + ".part")
        torch.save(state, temporary)
        os.replace(temporary, path)

    def resume(self, path: Path) -> History:
        """Read the checkpoint back. ValueError for a file that is none, or that belongs to another run."""
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            training, history = state["training"], state["losses"]
            there = training["identity"]
        except Exception as error:  # torch raises anything on bytes that are not its own
            raise ValueError(f"{path} is not a checkpoint of a training run: give another file") from error
        here = self.identity()
        # older files have neither entry; wrong arguments then show when the weights are loaded
        there = {"architecture": DEFAULT, "arguments": here["arguments"], **there}
        different = [
            f"{key} is {here[key]!r} here and {there.get(key)!r} there" for key in here if here[key] != there.get(key)
        ]
        if different:
            found = "; ".join(different)
            raise ValueError(f"{path} belongs to another training run: {found}. Give another checkpoint file")
        for (model, _), weights in zip(self.models_and_data, state["model"], strict=True):
            model.load_state_dict(weights)
        self.optimizer.load_state_dict(training["optimizer"])
        self.scheduler.load_state_dict(training["scheduler"])
        torch.set_rng_state(training["rng"])
        resumed: History = history
        return resumed
