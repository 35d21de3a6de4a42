"""The options of `targets`, and what it prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.catalog.targets import count, read_table
from pipeline.cli.main import main
from pipeline.errors import ExitStatus
from pipeline.surveys.sdss.survey import SDSS
from tests.catalogs import table, write_as

ROWS = {name: [*values, values[0], values[0]] for name, values in table(Z=None).items()}
ROWS |= {"z": [15.0] * 5, "redshift": [0.1, 0.2, 0.4, 0.1, 0.1], "u": [19.0] * 5, "MASS": [1.0, 2.0, 3.0, 4.0, 5.0]}
ROWS["PLATE"] = [266, 266, 10467, 266, -1]


def test_everything_that_was_decided_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_as("fits", tmp_path / "c.fits", ROWS, {"MASS": "solMass"})
    output = tmp_path / "t.parquet"
    options = ["--column", "Z = redshift", "--keep", "MASS, u", "--unique", "--skip-incomplete"]
    assert main(["targets", path, "--output", str(output), *options]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"3 targets, selected from 5 rows, written to {output}",
        "survey sdss, by the columns PLATE, MJD, FIBERID, RUN2D",
        "z from column redshift",
        "1 left out, without the ids of a spectrum (--skip-incomplete)",
        "1 left out, which repeat others (--unique)",
    ]
    assert count(str(output)) == 3
    assert {name: each.attributes for name, each in read_table(str(output), SDSS)[1].items()} == {
        "MASS": {"units": "solMass"},
        "u": {},
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--column", "z"], "--column is 'z', expected OUR=THEIRS, such as z=redshift"),
        (["--column", "z=a", "--column", "Z=b"], "--column is 'Z=b', expected one column for z; a is given, too"),
        (["--column", "zz=z"], "--column is 'zz=z', expected one of target, specobjid, plate, "),
        (["--keep", "NONE"], "--keep is 'NONE', expected a column of the catalog; the catalog has FIBERID, MASS, "),
        ([], "1 of 5 rows of "),
        (["--skip-incomplete"], "take the first of the 1 repeated rows with --unique"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    path = write_as("csv", tmp_path / "c.csv", ROWS)
    assert main(["targets", path, "--output", str(tmp_path / "t.parquet"), *options]) == ExitStatus.REFUSED
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "t.parquet").exists()
