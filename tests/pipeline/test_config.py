from __future__ import annotations

import dataclasses

import pytest

from pipeline.config import StorageConfig, SurveyConfig, release_of
from pipeline.errors import ConfigError
from pipeline.planning.model import read_toml

SURVEY = {"source": "https://data.sdss.org/sas/dr17", "targets": "targets.parquet"}


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
        ("layout", ""),
        ("instrument", 7),
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
    with pytest.raises(
        ConfigError, match=r"survey\.sourze \(with the value 'x'\) is not a known key; the keys are source, targets"
    ):
        SurveyConfig.from_dict({**SURVEY, "sourze": "x"})


def test_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"survey\.targets"):
        SurveyConfig.from_dict({"source": "x"})


def test_configuration_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SurveyConfig(**SURVEY).shard = 3  # type: ignore[misc]


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


# --- URLs that tell more than a place ---

WITH_SECRETS = ["https://user:hush@host/sas", "https://hush@host", "https://host/sas?token=hush", "s3://k:hush@b/x"]


@pytest.mark.parametrize("url", WITH_SECRETS)
@pytest.mark.parametrize("key", ["source", "targets", "cache"])
def test_a_url_with_credentials_is_refused_and_not_repeated(key: str, url: str) -> None:
    with pytest.raises(ConfigError, match=key) as caught:
        SurveyConfig.from_dict({**SURVEY, key: url})
    assert "hush" not in str(caught.value)
    assert "netrc" in str(caught.value)
