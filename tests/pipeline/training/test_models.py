from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.training.models import N_LATENT, ModelChoice, make_models, rest_range
from pipeline.training.sample import Sample, read_samples
from spender_core.instrument import BOSS, SDSS
from spender_core.weights import WeightsError, load_model
from tests.running import random_checkpoint

pytestmark = pytest.mark.slow

NARROW = (4000.0, 4200.0)


@pytest.fixture(scope="module")
def sdss(ingested: dict[str, str]) -> list[Sample]:
    return read_samples([ingested["sdss"]])


@pytest.fixture(scope="module")
def both(ingested: dict[str, str]) -> list[Sample]:
    return read_samples([ingested["sdss"], ingested["boss"]])


def test_new_models_cover_what_is_seen_at_usual_redshifts(sdss: list[Sample]) -> None:
    made = make_models(sdss, ModelChoice(n_latent=5), seed=0)
    (model,) = made.models
    low, high = np.percentile(sdss[0].z, (1, 99))
    assert model.n_latent == 5
    np.testing.assert_allclose(model.wave_rest[0], SDSS().wave_obs[0] / (1 + high), rtol=1e-5)
    np.testing.assert_allclose(model.wave_rest[-1], SDSS().wave_obs[-1] / (1 + low), rtol=1e-5)
    steps = np.diff(np.log10(model.wave_rest.double().numpy()))
    np.testing.assert_allclose(steps.mean(), 1e-4, rtol=1e-3)
    assert f"{model.wave_rest[0]:.0f}-{model.wave_rest[-1]:.0f} Angstrom" in made.said[0]


def test_the_joint_restframe_is_wider_than_either_instruments_own(both: list[Sample]) -> None:
    (blue, red), *single = (rest_range(samples) for samples in (both, both[:1], both[1:]))
    assert blue == min(low for low, _ in single)
    assert red == max(high for _, high in single)
    assert (blue, red) != single[0]


def test_the_restframe_can_be_chosen(sdss: list[Sample]) -> None:
    (model,) = make_models(sdss, ModelChoice(rest_range=NARROW), seed=0).models
    assert (float(model.wave_rest[0]), float(model.wave_rest[-1])) == (pytest.approx(4000), pytest.approx(4200))
    assert model.n_latent == N_LATENT


@pytest.mark.parametrize("times", [2, 3])
def test_superresolution_has_as_many_bins_per_observed_one(sdss: list[Sample], times: int) -> None:
    (once,) = make_models(sdss, ModelChoice(rest_range=NARROW), seed=0).models
    (finer,) = make_models(sdss, ModelChoice(rest_range=NARROW, superres=times), seed=0).models
    assert len(finer.wave_rest) - 1 == pytest.approx(times * (len(once.wave_rest) - 1), abs=times)


def test_a_restframe_that_an_instrument_never_sees_is_refused(sdss: list[Sample]) -> None:
    with pytest.raises(ConfigError, match="sdss sees nothing of 100-200 Angstrom"):
        make_models(sdss, ModelChoice(rest_range=(100, 200)), seed=0)


def test_all_models_share_the_decoder(both: list[Sample]) -> None:
    one, other = make_models(both, ModelChoice(rest_range=NARROW), seed=0).models
    assert one.decoder is other.decoder
    assert (one.encoder.instrument.name, other.encoder.instrument.name) == ("sdss", "boss")


def test_each_instrument_learns_its_own_line_spread_function(both: list[Sample]) -> None:
    choice = ModelChoice(rest_range=NARROW, lsf=5, lsf_symmetric=True)
    models = make_models(both, choice, seed=0).models
    kernels = [model.encoder.instrument.lsf for model in models]
    assert kernels[0] is not None
    assert kernels[0] is not kernels[1]
    assert kernels[0].weight.flatten().tolist() == [0, 0, 1, 0, 0]
    assert kernels[0].weight.requires_grad
    assert (kernels[0].symmetric, kernels[0].nonnegative) == (True, False)


def test_weights_depend_on_the_seed_alone(sdss: list[Sample]) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    models = [make_models(sdss, ModelChoice(rest_range=NARROW), seed=seed).models[0] for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    first, again, other = (torch.cat([p.flatten() for p in model.parameters()]) for model in models)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"n_latent": 4}, "--latents is 4, expected no --latents with --start; the checkpoint says how many"),
        ({"superres": 2}, "--superres is 2, expected no --superres with --start; the checkpoint has its restframe"),
        ({"rest_range": NARROW}, "--rest-range is .*, expected no --rest-range with --start"),
        ({"lsf": 5}, "--lsf is 5, expected no --lsf with --start"),
    ],
)
def test_what_a_checkpoint_decides_is_refused_beside_it(choice: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelChoice(start="sdss-demo", **choice)  # type: ignore[arg-type]


def test_a_checkpoint_behind_a_secret_is_refused_and_the_secret_not_shown() -> None:
    with pytest.raises(ConfigError, match="expected a URL without user name") as error:
        ModelChoice(start="https://jane:secret@host/m.pt")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"n_latent": 0}, "--latents is 0, expected at least 1"),
        ({"superres": 0}, "--superres is 0, expected at least 1"),
        ({"rest_range": (9000.0, 4000.0)}, "--rest-range is .*, expected two wavelengths"),
        ({"rest_range": (float("nan"), 4000.0)}, "--rest-range is .*, expected two wavelengths"),
        ({"lsf": 4}, "--lsf is 4, expected an odd number"),
        ({"lsf": 1}, "--lsf is 1, expected an odd number"),
        ({"lsf_symmetric": True}, "without a line spread function to learn; give --lsf 5, too"),
    ],
)
def test_choices_that_make_no_model_are_refused(choice: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelChoice(**choice)  # type: ignore[arg-type]


def test_training_starts_with_the_weights_and_the_form_of_a_checkpoint(sdss: list[Sample], tmp_path: Path) -> None:
    start = str(random_checkpoint(tmp_path, n_latent=6))
    (model,) = make_models(sdss, ModelChoice(start=start), seed=0).models
    expected, _ = load_model(start, SDSS())
    assert model.arguments == expected.arguments
    for name, values in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], values), name


def test_the_first_papers_form_is_taken_from_the_checkpoint_too(sdss: list[Sample]) -> None:
    (model,) = make_models(sdss, ModelChoice(start="sdss-demo"), seed=0).models
    assert model.arguments["n_aux"] == 1


def test_an_instrument_that_the_checkpoint_lacks_gets_a_new_encoder(both: list[Sample], tmp_path: Path) -> None:
    start = str(random_checkpoint(tmp_path, n_latent=6))
    for samples in (both, both[1:]):
        made = make_models(samples, ModelChoice(start=start), seed=0)
        boss = made.models[-1]
        assert len(boss.wave_obs) == len(BOSS().wave_obs)
        assert boss.n_latent == 6
        assert all(model.decoder is boss.decoder for model in made.models)
        expected, _ = load_model(start, SDSS())
        assert torch.equal(boss.decode(torch.ones(1, 6)), expected.decode(torch.ones(1, 6)))
        assert "boss: a new encoder; the checkpoint has sdss" in made.said


def test_a_line_spread_function_of_a_checkpoint_stays_as_it_is_asked(sdss: list[Sample], tmp_path: Path) -> None:
    start = str(random_checkpoint(tmp_path))
    with pytest.raises(ConfigError, match="no instrument of .* has a line spread function to keep"):
        make_models(sdss, ModelChoice(start=start, lsf_nonnegative=True), seed=0)
    state = torch.load(start)
    state["model"][0]["encoder.instrument.lsf.weight"] = torch.tensor([[[-0.5, 2.0, 0.5]]])
    torch.save(state, tmp_path / "lsf.pt")
    (model,) = make_models(sdss, ModelChoice(start=str(tmp_path / "lsf.pt"), lsf_nonnegative=True), seed=0).models
    assert model.encoder.instrument.lsf is not None
    assert model.encoder.instrument.lsf.weight.flatten().tolist() == pytest.approx([0.0, 0.8, 0.2])


def test_what_is_no_checkpoint_is_refused(sdss: list[Sample], tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_text("text")
    with pytest.raises(WeightsError, match="not a checkpoint"):
        make_models(sdss, ModelChoice(start=str(tmp_path / "m.pt")), seed=0)
