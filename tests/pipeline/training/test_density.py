"""Training a density by one command, on what a run has encoded."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline.catalog import targets as tables
from pipeline.cli import main as cli
from pipeline.errors import ConfigError
from pipeline.results.run import open_run
from pipeline.training.density import read_sample, train_density
from spender_core.density import density_of
from spender_core.density_fit import FlowSettings
from spender_core.weights import WeightsError
from tests.running import random_checkpoint

pytestmark = pytest.mark.slow

QUICK = FlowSettings(epochs=2, steps=10, batch_size=8, bins=4, transforms=1, hidden=(8,))
N = 80


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, mirror: Path) -> Path:
    """Give a finished run of real spectra."""
    made = tmp_path_factory.mktemp("training-density") / "run"
    frame = tables.read_targets(str(mirror / "sdss" / "spectro" / "redux" / "specObj-dr17.fits"))
    names = ["latents", "chi2", "n_pixels"]
    pipeline.plan(made, targets=frame.iloc[:N], source=mirror, models="sdss-galaxies", variables=names, shard=16)
    pipeline.run(made, serial=True, progress=False)
    return made


def test_the_sample_is_the_recommended_selection(root: Path) -> None:
    run = open_run(root)
    sample = read_sample(run, run.model(None))
    good = run.good()
    assert 0 < len(sample.latents) == good.sum() < N
    np.testing.assert_array_equal(sample.latents, run.encodings()["latents"].to_numpy()[good])
    np.testing.assert_array_equal(sample.sn, run.targets()["sn_median"].to_numpy(np.float32)[good])
    assert sample.model_sha256 == run.model(None).sha256
    assert sample.facts["selection"] == "the recommended selection"
    fewer = read_sample(run, run.model(None), "sn_median > 10")
    assert len(fewer.latents) == (good & (run.targets()["sn_median"].to_numpy() > 10)).sum() < good.sum()


def test_the_sides_of_the_split_are_those_of_the_training_of_models(root: Path) -> None:
    from pipeline.training.sample import read_part

    run = open_run(root)
    sample = read_sample(run, run.model(None))
    np.testing.assert_array_equal(sample.held_out, read_part(str(root)).valid[run.good()])


def test_a_command_trains_and_says_what_is_next(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "flow.pt"
    command = ["density", str(root), "--model", "sdss-galaxies", "--output", str(file), "--epochs", "2"]
    assert cli.main(command) == 0
    shown = capsys.readouterr()
    assert "epoch 1 of 2: mean log p" in shown.err
    assert "epoch 2 of 2" in shown.err
    assert f"next: spender-pipeline plan {root} --model sdss-galaxies --density {file}" in shown.out
    made = density_of(file.read_bytes(), "flow.pt")
    assert made.model_sha256 == open_run(root).model(None).sha256
    assert made.held_out is not None
    before = file.read_bytes()
    assert cli.main(command) == 0  # it has ended: nothing is repeated
    assert "epoch" not in capsys.readouterr().err
    assert file.read_bytes() == before
    assert cli.main([*command[:-1], "3"]) == 1
    assert "holds a density of other settings: choose another output, or remove it" in capsys.readouterr().err
    assert cli.main(["density", str(root), "--output", str(file), "--epochs", "0"]) == 1
    assert "--epochs is 0, expected at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_same_command_goes_on(
    root: Path, tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spender_core import density_fit

    train_density(root, tmp_path / "whole.pt", settings=QUICK)
    steps = iter(range(100))
    original = density_fit._Trainer._set_rate

    def interrupted(self: density_fit._Trainer) -> None:
        if next(steps) == 13:
            signal.raise_signal(number)
        original(self)

    monkeypatch.setattr(density_fit._Trainer, "_set_rate", interrupted)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train_density(root, tmp_path / "flow.pt", settings=QUICK)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with pytest.raises(WeightsError, match="has not ended: start the same command again"):
        density_of((tmp_path / "flow.pt").read_bytes(), "flow.pt")
    train_density(root, tmp_path / "flow.pt", settings=QUICK)
    assert (tmp_path / "flow.pt").read_bytes() == (tmp_path / "whole.pt").read_bytes()


def test_an_unfinished_density_is_no_density_of_a_plan(root: Path, tmp_path: Path) -> None:
    import torch

    file = tmp_path / "flow.pt"
    torch.save({"format": "spender-density", "version": 1}, file)
    with pytest.raises(ConfigError, match="--density cannot be used: the training of .* has not ended"):
        pipeline.plan(root, models="sdss-galaxies", density=file)


def test_outputs_that_cannot_be_written_are_refused_first(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for output in (tmp_path, tmp_path / "file" / "flow.pt"):
        with pytest.raises(ConfigError, match="--output"):
            train_density(root, output, settings=QUICK)


def test_any_url_may_be_written(root: Path) -> None:
    found = train_density(root, "memory://densities/flow.pt", settings=QUICK)
    assert found.output.exists()
    assert density_of(found.output.read(), "flow.pt").n_latent == found.density.n_latent


def test_runs_that_cannot_be_learnt_from_are_refused(root: Path, tmp_path: Path, mirror: Path) -> None:
    out = tmp_path / "flow.pt"
    with pytest.raises(ConfigError, match="no density of the latents .* can be trained: .* too few|held out"):
        train_density(root, out, settings=QUICK, where="sn_median > 30")
    with pytest.raises(ConfigError, match="is in the recommended selection and fulfils 'z > 5'"):
        train_density(root, out, settings=QUICK, where="z > 5")
    with pytest.raises(ConfigError, match="one of the plan's models"):
        train_density(root, out, "nobody", QUICK)
    frame = open_run(root).targets().iloc[:4]
    for variables, message in (
        ("chi2,n_pixels", "latents are stored"),
        ("latents,chi2", "is encoded by random; 1 chunk"),
    ):
        other = tmp_path / variables
        model = f"random={random_checkpoint(tmp_path)}"
        pipeline.plan(other, targets=frame, source=mirror, models=model, variables=variables.split(","), shard=4)
        with pytest.raises(ConfigError, match=message):
            train_density(other, out, settings=QUICK)
    assert not out.exists()
