"""Whose catalog it is, by its columns."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.catalog.recognition import opened_as, survey_of
from pipeline.surveys.registry import get_survey
from tests import desi_release

SDSS, DESI = "PLATE,MJD,FIBERID,RUN2D,Z", "TARGETID,SURVEY,PROGRAM,HEALPIX,Z"


def found(file: Path, survey: str | None = None, **columns: str) -> tuple[str, tuple[str, ...]]:
    with opened_as(survey, str(file), columns) as (_, known, said):
        return known.name, said


def write(folder: Path, text: str) -> Path:
    (folder / "c.csv").write_text(text)
    return folder / "c.csv"


def test_a_catalog_is_that_of_the_survey_whose_columns_it_has(tmp_path: Path) -> None:
    sdss = found(write(tmp_path, f"{SDSS}\n266,51602,1,26,0.1\n"))
    assert sdss == ("sdss", ("survey sdss, by the columns PLATE, MJD, FIBERID, RUN2D",))
    desi = found(write(tmp_path, f"{DESI}\n5,main,dark,7,0.1\n"))
    assert desi == ("desi", ("survey desi, by the columns TARGETID, SURVEY, PROGRAM, HEALPIX",))


def test_columns_that_the_user_names_count(tmp_path: Path) -> None:
    file = write(tmp_path, "ID,SURVEY,PROGRAM,HEALPIX,Z\n5,main,dark,7,0.1\n")
    assert found(file, targetid="ID")[1] == ("survey desi, by the columns ID, SURVEY, PROGRAM, HEALPIX",)


def test_a_list_of_keys_is_that_of_the_survey_that_writes_them_so(tmp_path: Path) -> None:
    assert found(write(tmp_path, "26/266-51602-1\n"))[0] == "sdss"
    assert found(write(tmp_path, f"{desi_release.KEY}\n"))[0] == "desi"


def test_a_redrock_file_is_recognized_by_its_header(shared_data: Path) -> None:
    assert found(desi_release.release_of(shared_data) / desi_release.REDROCK)[0] == "desi"


def test_a_catalog_that_lacks_columns_is_that_of_which_it_has_most(tmp_path: Path) -> None:
    assert found(write(tmp_path, "TARGETID,SURVEY,PROGRAM,Z\n5,main,dark,0.1\n"))[0] == "desi"
    assert found(write(tmp_path, "PLATE,MJD,Z\n266,51602,0.1\n"))[0] == "sdss"
    assert found(write(tmp_path, "A,B\n1,2\n"))[0] == "sdss"


def test_a_survey_that_is_named_is_not_looked_for(tmp_path: Path) -> None:
    assert found(write(tmp_path, f"{DESI}\n5,main,dark,7,0.1\n"), "sdss") == ("sdss", ())


@pytest.mark.parametrize("name", ["sdss", "desi"])
def test_a_table_of_targets_has_the_coordinates_of_its_survey(name: str) -> None:
    assert survey_of([*get_survey(name).coordinates, "mass"]).name == name
    assert survey_of(["target", "z"]).name == "sdss"
