"""Train a model on the spectra of finished ingests, by spender_core's trainer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from pipeline import signals, storage
from pipeline.errors import ConfigError, RefusedError, redacted
from pipeline.storage import Place
from pipeline.training.models import ModelChoice, make_models
from pipeline.training.output import Output
from pipeline.training.processes import joined, own_device
from pipeline.training.sample import domain, fingerprint, read_samples
from pipeline.training.watch import Watch
from spender_core.objective import Losses
from spender_core.settings import History, Settings, Stopped
from spender_core.training import ModelsAndData, fit
from spender_core.weights import PUBLISHED, WeightsError, checkpoint_sha256, read_extras

SAVE_EVERY = 600.0
"""Seconds between two checkpoints within an epoch, unless chosen."""


@dataclass(frozen=True)
class Trained:
    """What a training run came to.

    spectra: of each instrument, for training and validation. history: see `spender_core.training.fit`. is_first: of the
    processes that trained together, whether this is the one that writes and reports.
    """

    output: Output
    spectra: dict[str, int]
    history: History
    is_first: bool = True


def train(
    roots: Sequence[Place],
    output: Place,
    settings: Settings,
    losses: Losses = Losses(),  # noqa: B008 - frozen
    *,
    model: ModelChoice = ModelChoice(),  # noqa: B008 - frozen
    where: str | None = None,
    licence: str | None = None,
    save_every: float | None = SAVE_EVERY,
    stream: TextIO | None = None,
) -> Trained:
    """Train one model on the spectra of runs; each instrument gets an encoder, and all share the decoder.

    output: checkpoint to write, a path or any fsspec URL; training goes on from it if it is there. Beside it are a log,
    .jsonl, and the learning curve, .png. losses: what is minimized. where: condition on the columns of the runs'
    targets. licence: of the model, text that the checkpoint keeps. save_every: seconds between checkpoints within an
    epoch. stream: where progress is shown. Under torchrun, all processes train one model together.

    Ctrl-C and SIGTERM save first. Raises ConfigError, before the first step, for an output that cannot be written, for
    runs that are not ingested or have no usable spectra, for a checkpoint of another training run, and for choices that
    contradict each other; WeightsError for a checkpoint that cannot be read.
    """
    file = Output(storage.place(output, "--output"))
    if settings.epochs < 1:
        raise ConfigError("--epochs", settings.epochs, "at least 1")
    if save_every is not None and not save_every > 0:
        raise ConfigError("--save-every", save_every, "a positive number of seconds")
    with joined() as world, _translated(roots):
        if world.is_first:
            file.require_writable()
        samples = read_samples([storage.place(root, "ROOT") for root in roots], where)
        begun = _start_of(model.start)
        if world.is_first:
            _require_same_start(file, begun)
        made = make_models(samples, model, settings.seed)
        spectra = {sample.instrument: sample.n_usable for sample in samples}
        watch = Watch(file, stream if world.is_first else None)
        watch.say(f"spectra: {', '.join(f'{name} {count}' for name, count in spectra.items())}")
        _require_moving_rate(settings, sum(sample.data.steps("train", settings.batch_size) for sample in samples))
        for line in [*made.said, *_without_slope(settings, losses)]:
            watch.say(line)
        facts = {"domain": domain(samples), "data": fingerprint(samples, where), "start": begun, "licence": licence}
        models_and_data = [(m.to(own_device()), sample.data) for m, sample in zip(made.models, samples, strict=True)]
        history = _fit(models_and_data, settings, file, losses, facts, watch, save_every)
        return Trained(file, spectra, history, world.is_first)


def _require_moving_rate(settings: Settings, steps: int) -> None:
    """Refuse one cycle of the learning rate that has one value, at its very end: it would train nothing."""
    turns = {"step": steps * settings.epochs, "epoch": settings.epochs}.get(settings.schedule, 2)
    if turns < 2:
        problem = f"one cycle of the learning rate by {settings.schedule} has but one {settings.schedule}"
        raise RefusedError("--epochs", problem, "raise --epochs, or train with --schedule constant")


def _without_slope(settings: Settings, losses: Losses) -> list[str]:
    """Say where the similarity loss has no gradient throughout."""
    slopes = (losses.slope.at(epoch, settings.epochs) for epoch in range(settings.epochs))
    if not losses.similarity or any(slopes):
        return []
    return ["the similarity loss trains nothing: its slope is 0 in each of these epochs, as in the last of more"]


def _fit(
    models_and_data: ModelsAndData,
    settings: Settings,
    file: Output,
    losses: Losses,
    facts: dict[str, Any],
    watch: Watch,
    save_every: float | None,
) -> History:
    """Train until the end or a signal, which is raised again when all is saved."""
    with signals.noted() as is_asked_to_stop:
        history: History | None = None
        try:
            history = fit(
                models_and_data,
                settings,
                file,
                losses,
                extras=facts,
                on_step=watch.on_step,
                on_epoch=watch.on_epoch,
                stop=is_asked_to_stop,
                save_every=save_every,
            )
        except Stopped as stopped:
            watch.say(f"stopped in epoch {stopped.epoch + 1}, after {stopped.step} of its steps; saved: {file}")
            if not is_asked_to_stop():  # a process that trains with this one was
                raise
        finally:
            watch.end(history)
    if history is None:
        raise AssertionError("the signal that ended training was not raised again")
    return history


@contextmanager
def _translated(roots: Sequence[Place]) -> Iterator[None]:
    """Turn what the trainer refuses into errors for users."""
    try:
        yield
    except (ConfigError, WeightsError):
        raise
    except (ValueError, FloatingPointError) as error:
        places = ", ".join(redacted(str(root)) for root in roots)
        raise RefusedError("train", f"{places} cannot be trained on: {error}") from error


def _start_of(start: str | None) -> dict[str, str] | None:
    """Return which checkpoint a run begins with, as its own checkpoint keeps it."""
    if start is None:
        return None
    name = start if start in PUBLISHED else start.rstrip("/").rsplit("/", 1)[-1]
    return {"checkpoint": name, "sha256": checkpoint_sha256(start)}


def _require_same_start(file: Output, begun: dict[str, str] | None) -> None:
    """Refuse to go on with a run that began with another checkpoint. Raises ConfigError, WeightsError."""
    if not file.exists():
        return
    there = read_extras(file.url).get("start")
    if (there or {}).get("sha256") != (begun or {}).get("sha256"):
        found = "random weights" if there is None else f"{there['checkpoint']} (SHA-256 {there['sha256'][:12]}...)"
        given = None if begun is None else begun["checkpoint"]
        remedy = f"{file} began with that: give it again, or another --output"
        raise ConfigError("--start", given, found, remedy)
