"""The registry of surveys, and what a survey refuses."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import SurveyConfig
from pipeline.errors import ConfigError
from pipeline.surveys import registry
from pipeline.surveys.registry import get_survey
from pipeline.surveys.survey import Survey
from tests import toy_survey


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install the toy survey's package; gives the folder that it is in."""
    get_survey.cache_clear()
    folder = toy_survey.install(tmp_path / "packages")
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    get_survey.cache_clear()
    sys.modules.pop(toy_survey.MODULE, None)


def config_of(**changes: object) -> SurveyConfig:
    return SurveyConfig.from_dict({"source": "https://data.sdss.org/sas/dr17", "targets": "t.parquet", **changes})


def test_the_default_survey_is_there_and_made_once() -> None:
    survey = get_survey(registry.DEFAULT)
    assert survey.name == "sdss"
    assert get_survey("sdss") is survey


def test_every_survey_of_ours_has_the_name_under_which_it_is_found() -> None:
    assert {name: get_survey(name).name for name in registry._HOMES} == {name: name for name in registry._HOMES}


def test_an_unknown_survey_is_refused_with_the_choices() -> None:
    with pytest.raises(ConfigError) as caught:
        get_survey("nowhere")
    error = caught.value
    assert (error.key, error.value) == ("survey", "nowhere")
    assert error.expected == "one of desi, sdss"
    assert "install the package" in error.remedy


def test_a_survey_of_another_package_is_found_by_its_entry_point(installed: Path) -> None:
    survey = get_survey("toy")
    assert (survey.name, survey.instruments) == ("toy", {"toygrid": toy_survey.BINS})
    assert get_survey("toy") is survey


def test_a_survey_of_another_package_is_among_the_choices(installed: Path) -> None:
    with pytest.raises(ConfigError, match="one of desi, sdss, toy"):
        get_survey("nowhere")


def test_a_survey_that_was_unknown_is_found_once_its_package_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError):
        get_survey("toy")
    monkeypatch.syspath_prepend(str(toy_survey.install(tmp_path)))
    try:
        assert get_survey("toy").name == "toy"
    finally:
        get_survey.cache_clear()
        sys.modules.pop(toy_survey.MODULE, None)


def test_another_package_does_not_replace_a_survey_of_ours(installed: Path) -> None:
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    entry_points.write_text(entry_points.read_text().replace("toy = ", "sdss = "))
    assert get_survey("sdss").archive == "https://data.sdss.org/sas/dr17"


@pytest.mark.parametrize("name", ["target", "z"])
def test_a_survey_without_a_key_or_a_redshift_is_refused(name: str) -> None:
    survey = get_survey("sdss")
    coordinates = {key: each for key, each in survey.coordinates.items() if key != name}
    with pytest.raises(ValueError, match=f"survey 'sdss' has no coordinate {name}"):
        replace(survey, coordinates=coordinates)


def test_coordinates_that_a_survey_lacks_are_named_together() -> None:
    with pytest.raises(ValueError, match="no coordinate target, z"):
        replace(get_survey("sdss"), coordinates={})


@pytest.mark.parametrize(
    ("key", "choices"), [("layout", "spec-lite, spec, spPlate"), ("instrument", "sdss, boss")], ids=str
)
def test_a_layout_or_an_instrument_that_a_survey_lacks_is_refused(key: str, choices: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get_survey("sdss").require(config_of(**{key: "nosuch"}))
    assert (caught.value.key, caught.value.value, caught.value.expected) == (key, "nosuch", f"one of {choices}")


def every_choice(survey: Survey) -> list[tuple[str, str]]:
    return [(layout, instrument) for layout in survey.layouts for instrument in survey.instruments]


@pytest.mark.parametrize(("layout", "instrument"), every_choice(get_survey("sdss")))
def test_every_layout_goes_with_every_instrument(layout: str, instrument: str) -> None:
    get_survey("sdss").require(config_of(layout=layout, instrument=instrument))


def test_the_default_layout_is_the_first() -> None:
    assert config_of().layout == next(iter(get_survey("sdss").layouts))


def test_paths_are_those_of_the_layout_in_the_order_of_the_keys() -> None:
    keys = ["26/267-51608-2", "v5_13_2/4055-55359-596", "26/266-51602-1"]
    assert get_survey("sdss").paths("spec-lite", keys) == [
        "sdss/spectro/redux/26/spectra/lite/0267/spec-0267-51608-0002.fits",
        "eboss/spectro/redux/v5_13_2/spectra/lite/4055/spec-4055-55359-0596.fits",
        "sdss/spectro/redux/26/spectra/lite/0266/spec-0266-51602-0001.fits",
    ]
    assert get_survey("sdss").paths("spPlate", keys[:1]) == ["sdss/spectro/redux/26/0267/spPlate-0267-51608.fits"]


def test_a_key_that_a_layout_lacks_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        get_survey("sdss").paths("spPlate", ["26/266-51602-1", "v6_0_4/15000-59146-4375799055"])
    assert caught.value.key == "layout"
    assert "v6_0_4" in str(caught.value)


@pytest.mark.parametrize("key", ["266-51602-1", "26/266-51602", "../x/266-51602-1", ""])
def test_text_that_is_no_key_has_no_path(key: str) -> None:
    with pytest.raises(ConfigError, match="a key such as"):
        get_survey("sdss").paths("spec-lite", [key])
