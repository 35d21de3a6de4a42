"""Run: a training run as it goes on, step by step; what `training.fit` does."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .architectures import describe
from .average import RunningMean
from .dataset import SPLIT_RULE, Batch, Batches, interleaved
from .identity import identity_of, name_of, require_same
from .model import SpectrumModel
from .objective import Moment, Objective
from .parallel import World
from .precision import arithmetic
from .schedule import one_cycle
from .settings import EpochReport, History, Settings, Stopped
from .totals import Totals, mean_losses, mean_terms
from .training_file import Progress, TrainingFile, pack, unpack

CHECK = 20
"""On GPUs, steps between looks at the losses, each of which waits for the device."""

BETAS = (0.9, 0.999)  # torch.optim.Adam's


@dataclass(frozen=True)
class Hooks:
    """What the caller of `fit` wants to hear, and when it wants to be left alone."""

    on_step: Callable[[Moment], None] | None
    on_epoch: Callable[[EpochReport], None] | None
    stop: Callable[[], bool] | None
    save_every: float | None


@contextmanager
def frozen(models: Sequence[SpectrumModel], part: str | None) -> Iterator[None]:
    """Take a part of the models out of training for as long as the context lasts; instruments are of neither part."""
    parameters: list[nn.Parameter] = []
    for model in models:
        if part == "decoder":
            parameters += model.decoder.parameters()
        elif part == "encoder":
            kept = {id(parameter) for parameter in model.encoder.instrument.parameters()}
            parameters += [parameter for parameter in model.encoder.parameters() if id(parameter) not in kept]
    changed = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in changed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in changed:
            parameter.requires_grad_(True)


class Run:
    """A training run: what it trains, how far it is, and where it is kept."""

    def __init__(
        self,
        models_and_data: Sequence[tuple[SpectrumModel, Batches]],
        settings: Settings,
        objective: Objective,
        file: TrainingFile | None,
        extras: dict[str, Any],
        hooks: Hooks,
    ) -> None:
        self.models = [model for model, _ in models_and_data]
        self.data = [data for _, data in models_and_data]
        self.settings, self.objective, self.file, self.extras, self.hooks = settings, objective, file, extras, hooks
        self.world = World.current()
        self.device = self.models[0].wave_rest.device
        self.steps = sum(data.steps("train", settings.batch_size) for data in self.data)
        self.history: History = {"train": [], "valid": [], "train_terms": [], "valid_terms": []}
        groups = _groups(self.models, settings)
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.peaks = [group["lr"] for group in groups]
        self.optimizer = torch.optim.Adam(groups, betas=BETAS, eps=settings.eps)
        self.mean = None if settings.average is None else RunningMean(self.parameters, settings.average)
        self.totals = Totals()
        self.progress = Progress(identity_of(self.models, self.data, settings, objective))
        self.saved = time.monotonic()

    # What is done

    def train(self) -> None:
        """Train what is left of the epochs, and leave the models with the weights that the file shows."""
        while self.progress.epoch < self.settings.epochs and not self._is_patience_over():
            began = time.monotonic()
            self._train_epoch()
            valid = self._validate()
            if valid is None:
                self._stop()
            else:
                self._finish_epoch(valid, began)
        if self.progress.best is not None:
            self._load(self.progress.best["weights"])
        elif self.mean is not None:
            self.mean.copy_to_parameters()

    def _train_epoch(self) -> None:
        progress, settings = self.progress, self.settings
        for model in self.models:
            model.train()
        rng = np.random.default_rng((settings.seed, progress.epoch, 1))
        batches = interleaved(self.data, "train", progress.epoch, settings.batch_size, progress.step, rng)
        for k, batch in batches:
            moment = self._moment(progress.step, self.steps)
            self._step(self.models[k], batch, moment)
            progress.step += 1
            self._look(is_last=progress.step == self.steps)
            if self.hooks.on_step is not None and self.world.is_first:
                self.hooks.on_step(moment)

    def _step(self, model: SpectrumModel, batch: Batch, moment: Moment) -> None:
        self._set_rates(moment)
        self.optimizer.zero_grad()
        terms = self._evaluate(model, batch, moment)
        loss = torch.stack(list(terms.values())).sum()
        (loss if self.settings.summed else loss / len(batch)).backward()  # type: ignore[no-untyped-call]
        self.world.sum_gradients(self.parameters)
        if self.settings.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        self.optimizer.step()
        if model.encoder.instrument.lsf is not None:
            model.encoder.instrument.lsf.project()
        if self.mean is not None:
            self.mean.update()
        self.totals.add(name_of(model), terms, len(batch))

    def _evaluate(self, model: SpectrumModel, batch: Batch, moment: Moment) -> dict[str, Tensor]:
        """Terms of this process's share, which add up over processes to those of the batch."""
        size = self.world.size
        if len(batch) < size:  # too few to be shared: all processes do the same, for a part of the sum each
            moment = replace(moment, world=World())
        else:
            batch = batch[self.world.share(len(batch))]
            size = 1
        with arithmetic("bf16" if self.settings.bf16 else "float32", self.device):
            terms = self.objective(model, batch.to(self.device), moment)
        return {name: term / size for name, term in terms.items()} if size > 1 else terms

    def _moment(self, step: int, steps: int, training: bool = True) -> Moment:
        settings = self.settings
        return Moment(self.progress.epoch, settings.epochs, step, steps, settings.seed, training, self.world)

    def _set_rates(self, moment: Moment) -> None:
        if self.settings.schedule == "constant":
            return
        if self.settings.schedule == "step":
            rate, beta = one_cycle(moment.epoch * moment.steps + moment.step, moment.epochs * moment.steps)
        else:
            rate, beta = one_cycle(moment.epoch, moment.epochs)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * rate
            group["betas"] = (beta, BETAS[1])

    @torch.no_grad()
    def _validate(self) -> Totals | None:
        """Return sums over the spectra kept for validation, by the weights that are kept; None if asked to stop."""
        totals, size = Totals(), self.settings.batch_size
        random_states = _random_states(self.device)
        with self.mean.applied() if self.mean is not None else nullcontext():
            for model, data in zip(self.models, self.data, strict=True):
                model.eval()
                steps = data.steps("valid", size)
                for step, batch in enumerate(data.batches("valid", self.progress.epoch, size)):
                    terms = self._evaluate(model, batch, self._moment(step, steps, training=False))
                    totals.add(name_of(model), terms, len(batch))
                    if self._is_due(step + 1, step + 1 == steps) and self._agreed([self._is_asked_to_stop()])[0]:
                        _set_random_states(random_states, self.device)  # this validation is begun again
                        return None
        return totals

    def _finish_epoch(self, valid: Totals, began: float) -> None:
        progress = self.progress
        train_sums, valid_sums = self.totals.over(self.world), valid.over(self.world)
        entries = {
            "train": mean_losses(train_sums),
            "valid": mean_losses(valid_sums),
            "train_terms": mean_terms(train_sums),
            "valid_terms": mean_terms(valid_sums),
        }
        for name, value in entries["valid"].items():
            if not math.isfinite(value):
                raise self._broken(f"the spectra of {name} kept for validation", value)
        for key, entry in entries.items():
            self.history[key].append(entry)
        if self.settings.patience is not None:
            self._keep_best(valid_sums)
        progress.epoch, progress.step, self.totals = progress.epoch + 1, 0, Totals()
        self._save()
        if self.hooks.on_epoch is not None and self.world.is_first:
            lr = self.optimizer.param_groups[0]["lr"]
            seconds = time.monotonic() - began
            self.hooks.on_epoch(
                EpochReport(progress.epoch - 1, self.settings.epochs, **entries, lr=lr, seconds=seconds)
            )

    def _keep_best(self, sums: dict[str, dict[str, Any]]) -> None:
        """Keep the weights, if this validation is the best so far."""
        count = sum(entry["count"] for entry in sums.values())
        by_fidelity = all("fidelity" in entry["terms"] for entry in sums.values())  # others change with their slope
        loss = sum(
            entry["terms"]["fidelity"] if by_fidelity else sum(entry["terms"].values()) for entry in sums.values()
        )
        best = self.progress.best
        if best is None or loss / count < best["loss"]:
            self.progress.best = {"loss": loss / count, "epoch": self.progress.epoch, "weights": self._mean_weights()}

    def _is_patience_over(self) -> bool:
        best, patience = self.progress.best, self.settings.patience
        return best is not None and patience is not None and self.progress.epoch - best["epoch"] > patience

    # When to save and to stop

    def _is_due(self, step: int, is_last: bool) -> bool:
        """Tell whether it is time to wait for the device, and for other processes."""
        return is_last or self.device.type == "cpu" or step % CHECK == 0

    def _is_asked_to_stop(self) -> bool:
        return self.hooks.stop is not None and self.hooks.stop()

    def _is_time_to_save(self) -> bool:
        return self.hooks.save_every is not None and time.monotonic() - self.saved >= self.hooks.save_every

    def _agreed(self, flags: list[bool]) -> list[bool]:
        """Tell of each flag whether any process has it."""
        if self.world.size == 1:
            return flags
        return (self.world.sum_(torch.tensor(flags, dtype=torch.float32, device=self.device)) > 0).tolist()

    def _look(self, is_last: bool) -> None:
        """After a step: stop for a loss that is not finite or because asked to, and save if it is time."""
        is_due = self._is_due(self.progress.step, is_last)
        if self.world.size > 1 and not is_due:
            return
        stop, save = self._is_asked_to_stop(), self._is_time_to_save()
        broken = self.totals.broken() if is_due or stop or save else None
        is_broken, stop, save = self._agreed([broken is not None, stop, save])
        if is_broken:
            raise self._broken(*(broken or ("an instrument, in another process", math.nan)))
        if stop:
            self._stop()
        if save:
            self._save()

    def _broken(self, name: str, value: float) -> FloatingPointError:
        return FloatingPointError(
            f"loss is {value} in epoch {self.progress.epoch} on {name}: look for non-finite spectra or weights,"
            " or lower the learning rate"
        )

    def _stop(self) -> None:
        self._save()
        raise Stopped(self.progress.epoch, self.progress.step)

    # What is kept

    def _mean_weights(self) -> list[dict[str, Tensor]]:
        with self.mean.applied() if self.mean is not None else nullcontext():
            return _snapshot(self.models)

    def _save(self) -> None:
        """Write the file; all processes must come here."""
        self.saved = time.monotonic()
        progress = self.progress
        progress.totals = self.totals.over(self.world)
        if self.file is None or not self.world.is_first:
            return
        shown = progress.best["weights"] if progress.best is not None else self._mean_weights()
        progress.weights = None if progress.best is None and self.mean is None else _snapshot(self.models)
        progress.optimizer = self.optimizer.state_dict()
        progress.rng = _random_states(self.device)
        progress.mean = None if self.mean is None else self.mean.state()
        checkpoint = {
            **self.extras,
            **describe(self.models[0]),
            "model": shown,
            "losses": self.history,
            "instruments": [name_of(model) for model in self.models],
            "settings": asdict(self.settings),
            "objective": self.objective.identity,
            "fingerprint": [data.identity for data in self.data],
            "split": SPLIT_RULE,
        }
        self.file.write(pack(checkpoint, progress))

    def resume(self) -> None:
        """Go on from the file, if there is one. ValueError for one that is none, or that belongs to another run."""
        data = self.file.read() if self.file is not None and self.world.is_first and self.file.exists() else None
        data = self.world.from_first(data)
        if data is not None:
            self._restore(*unpack(data, str(self.file)))
        self.world.copy_from_first([value for model in self.models for value in model.state_dict().values()])

    def _restore(self, checkpoint: dict[str, Any], progress: Progress) -> None:
        require_same(self.progress.identity, progress.identity, str(self.file))
        done = progress.epoch + (progress.step > 0)
        if done > self.settings.epochs:
            raise ValueError(
                f"{self.file} is in epoch {done} already, and epochs is {self.settings.epochs}:"
                " raise epochs, or give another checkpoint file"
            )
        self.progress, self.history = progress, checkpoint["losses"]
        self._load(checkpoint["model"] if progress.weights is None else progress.weights)
        self.optimizer.load_state_dict(progress.optimizer)
        if self.mean is not None and progress.mean is not None:
            self.mean.restore(progress.mean["updates"], progress.mean["values"])
        if self.settings.patience is None:
            progress.best = None
        self.totals = Totals.of(progress.totals, self.world, self.device)
        _set_random_states(progress.rng, self.device)

    def _load(self, weights: list[dict[str, Tensor]]) -> None:
        for model, state in zip(self.models, weights, strict=True):
            model.load_state_dict(state)


def _groups(models: Sequence[SpectrumModel], settings: Settings) -> list[dict[str, Any]]:
    """Make groups of parameters to train, each with its peak learning rate. ValueError if there are none."""
    spread = {
        id(parameter): parameter
        for model in models
        if model.encoder.instrument.lsf is not None
        for parameter in model.encoder.instrument.lsf.parameters()
        if parameter.requires_grad
    }
    others = {
        id(parameter): parameter
        for model in models
        for parameter in model.parameters()
        if parameter.requires_grad and id(parameter) not in spread
    }
    lsf_lr = settings.lr if settings.lsf_lr is None else settings.lsf_lr
    groups = [
        {"params": list(parameters.values()), "lr": lr}
        for parameters, lr in ((others, settings.lr), (spread, lsf_lr))
        if parameters
    ]
    if not groups:
        raise ValueError(f"nothing to train: freeze is {settings.freeze!r}, and all else is frozen already")
    return groups


def _snapshot(models: Sequence[SpectrumModel]) -> list[dict[str, Tensor]]:
    """State dicts whose values stay as they are now, on the CPU; what models share is copied once."""
    copies: dict[tuple[int, torch.Size], Tensor] = {}
    states = []
    for model in models:
        state = {}
        for key, value in model.state_dict().items():
            place = (value.data_ptr(), value.shape)
            if place not in copies:
                copies[place] = value.to("cpu", copy=True)
            state[key] = copies[place]
        states.append(state)
    return states


def _random_states(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_random_states(states: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
