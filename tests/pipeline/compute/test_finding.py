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
    assert found.said[-1] == f"1 target found at {url}: 1 in redrock-special-dark-27247.fits"


@pytest.mark.parametrize("text", [f"TARGETID\n{TARGETID}\n", f"{TARGETID}\n"])
def test_a_bare_number_is_looked_for_in_all_files_of_a_small_mirror(
    release: Path, tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = catalog(tmp_path, text)
    found = pipeline.select_targets(table, source=release, survey="desi")
    assert found.frame["target"].tolist() == [desi_release.KEY]
    assert pipeline.plan(tmp_path / "run", targets=found, source=release).survey.name == "desi"
    monkeypatch.setattr(finding, "MOST_FILES", 0)
    message = f"has no file with 1 of 1 targets, such as {TARGETID}; give SURVEY, PROGRAM and HEALPIX"
    with pytest.raises(ConfigError, match=message):
        pipeline.select_targets(table, source=release, survey="desi")


def test_a_target_that_is_nowhere_is_refused(release: Path, tmp_path: Path) -> None:
    table = catalog(tmp_path, f"TARGETID,Z\n{TARGETID},0.1\n39628473198710603,0.2\n")
    with pytest.raises(ConfigError, match="has no file with 1 of 2 targets, such as 39628473198710603; give"):
        pipeline.select_targets(table, source=release)


def redrock(release: Path) -> Path:
    return next(release.rglob("redrock-special-dark-*.fits"))


def copied(release: Path, survey: str, program: str) -> Path:
    """Give the real redrock file to another survey and program, too."""
    folder = release / f"spectro/redux/iron/healpix/{survey}/{program}/272/27247"
    folder.mkdir(parents=True)
    return Path(shutil.copy(redrock(release), folder / f"redrock-{survey}-{program}-27247.fits"))


def test_of_several_files_the_deepest_has_the_target_and_what_the_catalog_says_decides(
    release: Path, tmp_path: Path
) -> None:
    for survey, program in (("main", "bright"), ("sv3", "bright"), ("cmx", "other")):
        copied(release, survey, program)
    for columns, values, expected in (
        ("TARGETID", "", "main-bright"),
        ("TARGETID,SURVEY", ",sv3", "sv3-bright"),
        ("TARGETID,SURVEY,PROGRAM", ",special,dark", "special-dark"),
        ("TARGETID,PROGRAM,RA,DEC", ",other,149.465404,1.7936467", "cmx-other"),
        ("TARGETID,SURVEY,HEALPIX", ",cmx,27247", "cmx-other"),
    ):
        found = pipeline.select_targets(
            catalog(tmp_path, f"{columns}\n{TARGETID}{values}\n"), source=release, survey="desi"
        )
        assert found.frame["target"].tolist() == [f"{expected}-27247-{TARGETID}"], columns


def test_a_mirror_of_the_early_release_is_searched(release: Path, tmp_path: Path) -> None:
    (release / "spectro/redux/iron").rename(release / "spectro/redux/fuji")
    found = pipeline.select_targets(catalog(tmp_path, f"TARGETID\n{TARGETID}\n"), source=release)
    assert found.frame["target"].tolist() == [desi_release.KEY]


def test_a_damaged_file_is_named_where_a_target_may_be_in_it(release: Path, tmp_path: Path) -> None:
    file = redrock(release)
    content = file.read_bytes()
    file.unlink()  # it may be a link to where nothing can be written
    file.write_bytes(content[:3000])
    with pytest.raises(ConfigError, match="such as 39.*; one file that may have them cannot be read: .*truncated"):
        pipeline.select_targets(catalog(tmp_path, f"TARGETID\n{TARGETID}\n"), source=release)


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_a_table_of_keys_is_that_of_the_survey_whose_keys_they_are(release: Path, tmp_path: Path, name: str) -> None:
    made = pipeline.select_targets(catalog(tmp_path, f"TARGETID\n{TARGETID}\n"), source=release).frame
    for frame in (made, made[["target", "z"]]):
        file = tmp_path / name
        frame.to_parquet(file) if name.endswith("parquet") else frame.to_csv(file, index=False)
        found = pipeline.select_targets(file, source=release)
        assert found.said[0].startswith("survey desi, by the column"), frame.columns
        assert found.frame["target"].tolist() == [desi_release.KEY]


def test_without_an_archive_they_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="1 of 1 targets have no SURVEY, PROGRAM and HEALPIX: no archive was asked"):
        pipeline.select_targets(catalog(tmp_path, f"TARGETID\n{TARGETID}\n"), fetch=False)
    with pytest.raises(ConfigError, match="a folder that exists"):
        pipeline.select_targets(catalog(tmp_path, f"TARGETID\n{TARGETID}\n"), source=tmp_path / "nowhere")
