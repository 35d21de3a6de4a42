"""Targets of which a catalog names only the number are found by the archive's files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline.compute import finding
from pipeline.errors import ConfigError
from tests import desi_release
from tests.archive_folder import served

TARGETID = 39089837499744649


@pytest.fixture
def release(shared_data: Path, tmp_path: Path) -> Path:
    """Give a release whose one redrock file is that of an imaging target, too."""
    shutil.copytree(desi_release.release_of(shared_data), tmp_path / "dr1")
    return tmp_path / "dr1"


def catalog(folder: Path, text: str) -> Path:
    (folder / "c.csv").write_text(text)
    return folder / "c.csv"


def test_a_number_with_a_position_is_found_by_few_files(shared_data: Path, tmp_path: Path) -> None:
    table = catalog(tmp_path, f"TARGETID,RA,DEC\n{TARGETID},149.465404,1.7936467\n")
    with served(desi_release.release_of(shared_data)) as url:
        found = pipeline.select_targets(table, source=url)
    assert found.frame["target"].tolist() == [desi_release.KEY]
    assert found.frame["z"].tolist() == [np.float32(0.007269671851219614)]
    assert found.said[-1] == f"1 target found in special-dark at {url}"


@pytest.mark.parametrize("text", [f"TARGETID\n{TARGETID}\n", f"{TARGETID}\n"])
def test_a_bare_number_is_looked_for_in_all_files_of_a_small_mirror(
    release: Path, tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = catalog(tmp_path, text)
    found = pipeline.select_targets(table, source=release, survey="desi")
    assert found.frame["target"].tolist() == [desi_release.KEY]
    assert pipeline.plan(tmp_path / "run", targets=found, source=release).survey.name == "desi"
    monkeypatch.setattr(finding, "MOST_FILES", 0)
    with pytest.raises(ConfigError, match=f"has no file with the target {TARGETID}; give SURVEY, PROGRAM and HEALPIX"):
        pipeline.select_targets(table, source=release, survey="desi")


def test_a_target_that_is_nowhere_is_refused(release: Path, tmp_path: Path) -> None:
    table = catalog(tmp_path, f"TARGETID,Z\n{TARGETID},0.1\n39628473198710603,0.2\n")
    with pytest.raises(ConfigError, match="has no file with the target 39628473198710603"):
        pipeline.select_targets(table, source=release)


def test_without_an_archive_they_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="1 of 1 targets have no SURVEY, PROGRAM and HEALPIX: no archive was asked"):
        pipeline.select_targets(catalog(tmp_path, f"TARGETID\n{TARGETID}\n"), fetch=False)
    with pytest.raises(ConfigError, match="a folder that exists"):
        pipeline.select_targets(catalog(tmp_path, f"TARGETID\n{TARGETID}\n"), source=tmp_path / "nowhere")
