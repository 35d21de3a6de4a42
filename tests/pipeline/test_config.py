from __future__ import annotations

import dataclasses

import pytest

from pipeline.config import (
    DEFAULT_VARIABLES,
    GRID_LENGTHS,
    OPTIONAL_VARIABLES,
    ConfigError,
    ModelConfig,
    StorageConfig,
    SurveyConfig,
    model_name,
    read_toml,
    redacted,
    release_of,
)
from spender_core import get_instrument

SURVEY = {"source": "https://data.sdss.org/sas/dr17", "targets": "targets.parquet"}


def test_error_says_key_value_expectation_and_remedy() -> None:
    error = ConfigError("shard", 5000, "1 to 4096 spectra", "choose less")
    assert str(error) == "shard is 5000, expected 1 to 4096 spectra; choose less"
    assert isinstance(error, ValueError)


@pytest.mark.parametrize("name", sorted(GRID_LENGTHS))
def test_grid_lengths_are_those_of_the_instruments(name: str) -> None:
    assert len(get_instrument(name).wave_obs) == GRID_LENGTHS[name]


def test_survey_has_defaults_and_reads_the_release_from_its_source() -> None:
    config = SurveyConfig(**SURVEY)
    assert (config.layout, config.instrument, config.release) == ("spec-lite", "sdss", "dr17")
    assert SurveyConfig(**SURVEY, release="dr16").release == "dr16"


@pytest.mark.parametrize(
    ("url", "release"),
    [
        ("https://data.sdss.org/sas/dr17", "dr17"),
        ("/mirrors/DR9/", "dr9"),
        ("https://data.desi.lbl.gov/public/edr1", "edr1"),
        ("http://127.0.0.1:8000/", ""),
        ("/data/hydra1", ""),
    ],
)
def test_release_is_the_one_the_url_names(url: str, release: str) -> None:
    assert release_of(url) == release


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("source", ""),
        ("source", None),
        ("targets", " "),
        ("layout", "spPlatte"),
        ("instrument", "desi"),
        ("release", 17),
        ("shard", 0),
        ("shard", True),
        ("chunk", 2.5),
        ("concurrency", 0),
        ("retries", -1),
    ],
)
def test_survey_refuses_a_wrong_value_by_its_key(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        SurveyConfig.from_dict({**SURVEY, key: value})
    assert caught.value.key == key
    assert caught.value.value == value


def test_survey_survives_the_round_trip() -> None:
    config = SurveyConfig(**SURVEY, shard=64, chunk=16, concurrency=3)
    assert SurveyConfig.from_dict(config.to_dict()) == config


def test_unknown_key_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"survey\.sourze is 'x'.*source, targets"):
        SurveyConfig.from_dict({**SURVEY, "sourze": "x"})


def test_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"survey\.targets"):
        SurveyConfig.from_dict({"source": "x"})


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


def test_reconstruction_is_off_unless_asked_for() -> None:
    assert set(OPTIONAL_VARIABLES) - set(DEFAULT_VARIABLES) == {"reconstruction"}


def test_resolving_fills_in_the_checkpoint_and_only_open_choices() -> None:
    asked = ModelConfig(name="m", checkpoint="m.pt", micro_batch=16)
    assert not asked.resolved
    resolved = asked.resolve(sha256="0" * 64, n_latent=6, n_rest=7000, micro_batch=64)
    assert resolved.resolved
    assert resolved.micro_batch == 16
    assert ModelConfig.from_dict(resolved.to_dict()) == resolved


def test_configuration_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SurveyConfig(**SURVEY).shard = 3  # type: ignore[misc]


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


# --- [storage] ---

TABLES = """
source = "s3://sdss-archive/sas/dr17"
targets = "t.parquet"
[storage."s3://sdss-archive/"]
endpoint = "https://s3.example.org:9000/path"
profile = "archive"
requester_pays = true
path_style = false
[storage."s3://sdss-archive/sas/dr1"]
anonymous = true
"""


def test_storage_tables_are_read_and_survive_the_round_trip() -> None:
    config, _ = read_toml(TABLES)
    assert config.storage == (
        StorageConfig(
            prefix="s3://sdss-archive",
            endpoint="https://s3.example.org:9000/path",
            profile="archive",
            requester_pays=True,
            path_style=False,
        ),
        StorageConfig(prefix="s3://sdss-archive/sas/dr1", anonymous=True),
    )
    assert SurveyConfig.from_dict(config.to_dict()) == config
    assert SurveyConfig(**SURVEY).to_dict()["storage"] == {}


@pytest.mark.parametrize(
    ("url", "covered"),
    [("s3://b/x", True), ("s3://b/x/", True), ("s3://b/x/y", True), ("s3://b/xy", False), ("s3://b", False)],
)
def test_a_prefix_covers_whole_parts_of_a_path(url: str, covered: bool) -> None:
    assert StorageConfig(prefix="s3://b/x").covers(url) is covered


@pytest.mark.parametrize(
    "prefix",
    ["https://host", "s3://", "/data", "s3", "s3://b?x=1", "s3://b/../c", "s3://b//c", "s3://key:secret@b", "s3://b/#"],
)
def test_a_prefix_that_is_no_bucket_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigError, match="storage") as caught:
        StorageConfig.from_dict(prefix, {})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("key", "AKIAX"),
        ("secret", "hush"),
        ("aws_secret_access_key", "hush"),
        ("token", "hush"),
        ("password", "hush"),
        ("client_kwargs", {"aws_secret_access_key": "x"}),
        ("prefix", "s3://c"),
        ("endpoint", "https://user:hush@host"),
        ("endpoint", "https://host?token=hush"),
        ("endpoint", "host"),
        ("endpoint", 1),
        ("profile", ""),
        ("anonymous", "yes"),
        ("requester_pays", 1),
        ("path_style", "auto"),
    ],
)
def test_a_storage_table_takes_its_keys_alone_and_no_credentials(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"storage.s3://b.{key}") as caught:
        StorageConfig.from_dict("s3://b", {key: value})
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("other", [{"profile": "p"}, {"requester_pays": True}])
def test_an_anonymous_request_has_no_identity_beside_it(other: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="anonymous"):
        StorageConfig.from_dict("s3://b", {"anonymous": True, **other})


@pytest.mark.parametrize("tables", [{"endpoint": "https://host"}, ["s3://b"], {"s3://b": {}, "s3://b/": {}}])
def test_storage_is_made_of_tables_each_named_by_a_prefix(tables: object) -> None:
    with pytest.raises(ConfigError, match="storage"):
        SurveyConfig.from_dict({**SURVEY, "storage": tables})


def test_a_secret_in_the_wrong_place_is_not_repeated() -> None:
    with pytest.raises(ConfigError, match="copied into plan.json") as caught:
        read_toml('source = "s"\ntargets = "t"\naws_secret_access_key = "hush"')
    assert "hush" not in str(caught.value)


# --- URLs that tell more than a place ---

WITH_SECRETS = ["https://user:hush@host/sas", "https://hush@host", "https://host/sas?token=hush", "s3://k:hush@b/x"]


@pytest.mark.parametrize("url", WITH_SECRETS)
@pytest.mark.parametrize("key", ["source", "targets", "cache"])
def test_a_url_with_credentials_is_refused_and_not_repeated(key: str, url: str) -> None:
    with pytest.raises(ConfigError, match=key) as caught:
        SurveyConfig.from_dict({**SURVEY, key: url})
    assert "hush" not in str(caught.value)
    assert "netrc" in str(caught.value)


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("GET https://u:hush@h/x?sig=hush 'y'", "GET https://***@h/x?*** 'y'"),
        ("s3://AKIA:hu/sh+hush@bucket/x", "s3://***@bucket/x"),
        ("https://me@example.org:hush@h/x", "https://***@h/x"),
        ("s3://AKIA:12/hush@bucket/run", "s3://***@bucket/run"),
        ("https://h/dr17#access_token=hush", "https://h/dr17#***"),
        ("404 for /bucket/x?X-Amz-Signature=hush&y=1", "404 for /bucket/x?***"),
        ("two runs on one ROOT at once? remove it", "two runs on one ROOT at once? remove it"),
        ("https://h:8080/a@b", "https://h:8080/a@b"),
        ("tls://hush@h:1, then s3://b/x?hush", "tls://***@h:1, then s3://b/x?***"),
    ],
)
def test_text_is_redacted_wherever_a_url_stands_in_it(text: str, expected: str) -> None:
    assert redacted(text) == expected
    assert str(ConfigError("key", text, "no secret")) == f"key is {expected!r}, expected no secret"
