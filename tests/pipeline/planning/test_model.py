from __future__ import annotations

import pytest

from pipeline.errors import ConfigError
from pipeline.planning.model import ModelConfig, model_name, read_toml
from pipeline.planning.schema import OUTPUTS, default_outputs

WITH_SECRETS = ["https://user:hush@host/sas", "https://hush@host", "https://host/sas?token=hush", "s3://k:hush@b/x"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "a/b"),
        ("name", ""),
        ("name", "../up"),
        ("name", 3),
        ("checkpoint", ""),
        ("variables", "latents"),
        ("variables", ["latents", "spectrum"]),
        ("variables", []),
        ("precision", "float16"),
        ("micro_batch", 0),
        ("sha256", "abc"),
        ("n_latent", 0),
        ("n_rest", "7000"),
    ],
)
def test_model_refuses_a_wrong_value_by_its_key(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_dict({"name": "m", "checkpoint": "m.pt", key: value})
    assert caught.value.key == f"model.{key}"


def test_order_of_the_variables_does_not_matter() -> None:
    one = ModelConfig(name="m", checkpoint="m", variables=("chi2", "latents"))
    assert one == ModelConfig(name="m", checkpoint="m", variables=("latents", "chi2"))


def test_what_is_large_or_takes_long_is_off_unless_asked_for() -> None:
    expected = {"reconstruction", "latents_fit", "latents_cov", "chi2_fit"}
    assert set(OUTPUTS) - set(default_outputs()) == expected


def test_a_model_that_fits_is_resolved_when_what_it_fits_with_is_known() -> None:
    facts = {"sha256": "0" * 64, "n_latent": 6, "n_rest": 7000, "micro_batch": 64}
    for asked in ({"redshift": "blind"}, {"variables": ("latents_fit",)}):
        model = ModelConfig(name="m", checkpoint="m.pt", **asked)  # type: ignore[arg-type]
        assert not model.resolve(**facts).resolved  # type: ignore[arg-type]
        known = model.resolve(**facts, redshift_range=(0.0, 0.5), basis="1" * 64)  # type: ignore[arg-type]
        assert known.resolved
        assert ModelConfig.from_dict(known.to_dict()) == known


def test_redshifts_that_are_found_are_stored_beside_the_outputs() -> None:
    stored = ModelConfig(name="m", checkpoint="m.pt", redshift="refine").stored
    assert {"z_fit", "z_fit_err", "z_fit_warning", "latents", "quality"} <= set(stored)
    assert not any(name.startswith("z_fit") for name in ModelConfig(name="m", checkpoint="m.pt").stored)


def test_resolving_fills_in_the_checkpoint_and_only_open_choices() -> None:
    asked = ModelConfig(name="m", checkpoint="m.pt", micro_batch=16)
    assert not asked.resolved
    resolved = asked.resolve(sha256="0" * 64, n_latent=6, n_rest=7000, micro_batch=64)
    assert resolved.resolved
    assert resolved.micro_batch == 16
    assert ModelConfig.from_dict(resolved.to_dict()) == resolved


def test_toml_gives_the_survey_and_its_models() -> None:
    survey, models = read_toml(
        """
        source = "s3://mirror/dr16"
        targets = "targets.parquet"
        shard = 512
        [[model]]
        checkpoint = "models/paperII-c273bb69.pt"
        [[model]]
        checkpoint = "sdss_II"
        name = "second"
        variables = ["latents"]
        """
    )
    assert (survey.shard, survey.release) == (512, "dr16")
    assert [model.name for model in models] == ["paperII-c273bb69", "second"]
    assert models[1].variables == ("latents",)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("source = ", "config"),
        ("source = 'x'\ntargets = 't'\nmodel = 'm'", "model"),
        ("source = 'x'\ntargets = 't'\n[[model]]\nname = 'm'", "model.checkpoint"),
        ("source = 'x'\ntargets = 't'\nworkers = 3", "survey.workers"),
        ("source='x'\ntargets='t'\n[[model]]\ncheckpoint='m'\n[[model]]\ncheckpoint='a/m.pt'", "model.name"),
    ],
)
def test_toml_that_says_something_wrong_is_refused_by_key(text: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_toml(text)
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("checkpoint", "name"),
    [("sdss-demo", "sdss-demo"), ("s3://b/my model.pt", "my-model"), ("hf://a/b/net.safetensors", "net"), ("/", "")],
)
def test_model_is_named_after_its_checkpoint(checkpoint: str, name: str) -> None:
    assert model_name(checkpoint) == name


def test_a_secret_in_the_wrong_place_is_not_repeated() -> None:
    with pytest.raises(ConfigError, match="copied into plan.json") as caught:
        read_toml('source = "s"\ntargets = "t"\naws_secret_access_key = "hush"')
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("url", [*WITH_SECRETS, "https://host/m.pt?download=1&X-Amz-Signature=hush"])
def test_a_checkpoint_with_credentials_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="checkpoint") as caught:
        ModelConfig(name="m", checkpoint=url)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://zenodo.org/records/1/files/m.pt?download=1",
        "s3://b/m.pt?versionId=3HL4kq.tVjVBH40-x",
        "hf://pmelchior/spender@main/m.pt",
        "github://org:repo@main/m.pt",
        "/data/what?/m@2.pt",
    ],
)
def test_urls_that_name_a_place_alone_are_taken(url: str) -> None:
    assert ModelConfig(name="m", checkpoint=url).checkpoint == url
