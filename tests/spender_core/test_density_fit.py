"""Training a density: better than a Gaussian, the same bytes whenever it was stopped, and one file for one sample."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from spender_core.density_fit import FlowEpoch, FlowSample, FlowSettings, fit_density
from spender_core.settings import Stopped
from spender_core.training_file import LocalFile
from spender_core.weights import WeightsError
from tests.spender_core.density_samples import QUICK, density, modes, sample, trained

pytestmark = pytest.mark.slow


def stopping(after: int):
    calls = iter(range(10**6))
    return lambda: next(calls) >= after


def test_a_trained_density_beats_a_gaussian_on_what_is_held_out() -> None:
    own = sample()
    valid, train = torch.from_numpy(own.latents[own.held_out]), torch.from_numpy(own.latents[~own.held_out])
    gaussian = torch.distributions.MultivariateNormal(train.mean(dim=0), torch.cov(train.T))
    found = density()
    with torch.no_grad():
        assert found.log_prob(valid).mean() > gaussian.log_prob(valid).mean() + 1


@pytest.mark.parametrize("steps", [0, 5, QUICK.steps, QUICK.steps + 7, 3 * QUICK.steps])
def test_a_run_that_was_stopped_ends_with_the_same_bytes(tmp_path: Path, steps: int) -> None:
    file = LocalFile(tmp_path / "flow.pt")
    with pytest.raises(Stopped) as stopped:
        fit_density(sample(), QUICK, file, stop=stopping(steps)) if steps < 3 * QUICK.steps else _stop_twice(file)
    if steps < 3 * QUICK.steps:
        assert (stopped.value.epoch, stopped.value.step) == divmod(steps, QUICK.steps)
    fit_density(sample(), QUICK, file)
    assert file.read() == trained()


def _stop_twice(file: LocalFile) -> None:
    with pytest.raises(Stopped):
        fit_density(sample(), QUICK, file, stop=stopping(30))
    fit_density(sample(), QUICK, file, stop=stopping(20))


def test_a_run_that_was_killed_goes_on_from_its_last_epoch(tmp_path: Path) -> None:
    file = LocalFile(tmp_path / "flow.pt")

    def kill(report: FlowEpoch) -> None:
        if report.epoch == 1:
            raise MemoryError

    with pytest.raises(MemoryError):
        fit_density(sample(), QUICK, file, on_epoch=kill)
    seen: list[int] = []
    fit_density(sample(), QUICK, file, on_epoch=lambda report: seen.append(report.epoch))
    assert seen == [1, 2]
    assert file.read() == trained()


def test_a_run_that_has_ended_is_not_repeated(tmp_path: Path) -> None:
    file = LocalFile(tmp_path / "flow.pt")
    file.write(trained())
    seen: list[int] = []
    found = fit_density(sample(), QUICK, file, on_epoch=lambda report: seen.append(report.epoch))
    assert seen == []
    assert found.facts == density().facts
    assert file.read() == trained()


@pytest.mark.parametrize(
    ("other", "settings", "message"),
    [
        (sample(seed=2), QUICK, "of another sample"),
        (dataclasses.replace(sample(), model_sha256="cd" * 32), QUICK, "of another model's latents"),
        (sample(), dataclasses.replace(QUICK, seed=1), "of other settings"),
    ],
)
def test_a_file_of_another_run_is_refused(
    tmp_path: Path, other: FlowSample, settings: FlowSettings, message: str
) -> None:
    file = LocalFile(tmp_path / "flow.pt")
    file.write(trained())
    with pytest.raises(ValueError, match=message):
        fit_density(other, settings, file)
    assert file.read() == trained()


def test_a_file_that_is_no_density_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "flow.pt").write_bytes(b"a thesis")
    with pytest.raises(WeightsError, match="not a density of latents"):
        fit_density(sample(), QUICK, LocalFile(tmp_path / "flow.pt"))
    torch.save({"model": {}}, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match="another kind of file"):
        fit_density(sample(), QUICK, LocalFile(tmp_path / "model.pt"))
    assert (tmp_path / "flow.pt").read_bytes() == b"a thesis"


def test_a_sample_that_is_too_small_is_refused(tmp_path: Path) -> None:
    file = LocalFile(tmp_path / "flow.pt")
    few = FlowSample(modes(6), np.arange(6) < 3, np.ones(6, np.float32), "ab" * 32)
    with pytest.raises(ValueError, match="3 spectra are too few for 3 latents"):
        fit_density(few, QUICK, file)
    none = dataclasses.replace(sample(100), held_out=np.zeros(100, bool))
    with pytest.raises(ValueError, match="no spectrum is held out"):
        fit_density(none, QUICK, file)
    assert not file.exists()


def test_training_ends_early_with_the_best_weights(tmp_path: Path) -> None:
    own = sample(60)  # little to learn, and much to learn by heart
    settings = dataclasses.replace(QUICK, epochs=30, patience=2, lr=0.02)
    seen: list[FlowEpoch] = []
    found = fit_density(own, settings, LocalFile(tmp_path / "flow.pt"), on_epoch=seen.append)
    assert len(seen) < 30
    assert not any(report.is_best for report in seen[-2:])
    with torch.no_grad():
        valid = float(found.log_prob(torch.from_numpy(own.latents[own.held_out])).double().mean())
    best = [report.valid for report in seen if report.is_best]
    if best:
        assert valid == pytest.approx(max(best), abs=1e-4)
    assert valid >= max(report.valid for report in seen) - 1e-4


def test_members_are_averaged(tmp_path: Path) -> None:
    settings = dataclasses.replace(QUICK, members=2)
    seen: list[FlowEpoch] = []
    found = fit_density(sample(), settings, LocalFile(tmp_path / "flow.pt"), on_epoch=seen.append)
    assert [(report.member, report.epoch) for report in seen] == [(m, e) for m in (0, 1) for e in range(3)]
    states = found.flow.members
    assert isinstance(states, torch.nn.ModuleList)
    assert len(states) == 2
    first, second = (next(iter(each.parameters())) for each in states)
    assert not torch.equal(first, second)


def test_reports_are_in_the_units_of_the_latents(tmp_path: Path) -> None:
    seen: list[FlowEpoch] = []
    own = sample()
    fit_density(own, QUICK, LocalFile(tmp_path / "flow.pt"), on_epoch=seen.append)
    with torch.no_grad():
        valid = density().log_prob(torch.from_numpy(own.latents[own.held_out])).mean()
    assert max(report.valid for report in seen) == pytest.approx(float(valid), abs=1e-3)
    assert seen[0].lr > seen[-1].lr > 0


@pytest.mark.parametrize("values", [{"epochs": 0}, {"members": 0}, {"lr": -1.0}, {"bins": 0}, {"patience": 0}])
def test_settings_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(values))} is"):
        FlowSettings(**values)  # type: ignore[arg-type]
