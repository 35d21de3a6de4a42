"""VOTable and ECSV as servers and astropy write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.table import QTable, Table
from astropy.time import Time

from pipeline.catalog.reader import open_catalog
from pipeline.catalog.targets import find_targets, read_targets
from pipeline.errors import ConfigError, RefusedError
from tests.catalogs import table, write_as


@pytest.mark.parametrize("form", ["tabledata", "binary", "binary2"])
def test_every_serialization_of_a_votable_is_read(tmp_path: Path, form: str) -> None:
    rows = Table({**table(), "NOTE": ["a", "bb", ""], "VECTOR": np.zeros((3, 2))})
    rows.write(tmp_path / "c.xml", format="votable", tabledata_format=form)
    frame = find_targets(str(tmp_path / "c.xml"), keep=["NOTE"]).frame
    assert frame["fiberid"].tolist() == [1, 9, 636]
    assert frame["NOTE"].tolist() == ["bb", "a", ""]


def votable(folder: Path, *inside: str) -> str:
    path = folder / "c.vot"
    path.write_text('<?xml version="1.0"?><VOTABLE version="1.3"><RESOURCE type="results">' + "".join(inside))
    with path.open("a") as file:
        file.write("</RESOURCE></VOTABLE>")
    return str(path)


def test_what_a_server_says_in_place_of_a_table_is_passed_on(tmp_path: Path) -> None:
    path = votable(tmp_path, '<INFO name="QUERY_STATUS" value="ERROR">no such column: zz</INFO>')
    with pytest.raises(ConfigError, match="it has no table; the server says ERROR no such column: zz"):
        read_targets(path)
    with pytest.raises(ConfigError, match="it has no table"):
        read_targets(votable(tmp_path))


def test_two_fields_of_one_name_are_two_columns(tmp_path: Path) -> None:
    fields = "".join(f'<FIELD name="{name}" datatype="double" unit="km.s-1"/>' for name in ("z", "z"))
    path = votable(
        tmp_path, f"<TABLE>{fields}<DATA><TABLEDATA><TR><TD>1</TD><TD>2</TD></TR></TABLEDATA></DATA></TABLE>"
    )
    with open_catalog(path) as opened:
        assert opened.names == ("z", "z_2")
        assert opened.units == {"z": "km s-1", "z_2": "km s-1"}
        assert [block["z_2"].tolist() for block in opened.blocks(["z_2"], 10)] == [[2.0]]


def rows_of(*fibers: int) -> str:
    fields = "".join(f'<FIELD name="{name}" datatype="int"/>' for name in ("plate", "fiberid"))
    rows = "".join(f"<TR><TD>266</TD><TD>{fiber}</TD></TR>" for fiber in fibers)
    return f"<TABLE>{fields}<DATA><TABLEDATA>{rows}</TABLEDATA></DATA></TABLE>"


def test_several_tables_with_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"c.vot has 2 tables with rows; put each result set into a file by itself"):
        read_targets(votable(tmp_path, rows_of(1), rows_of(2, 3)))
    with pytest.raises(RefusedError, match=r"c.vot has 2 tables with rows"):
        read_targets(votable(tmp_path, rows_of(1), "</RESOURCE><RESOURCE>", rows_of(2, 3)))
    with open_catalog(votable(tmp_path, rows_of(), rows_of(2, 3))) as opened:
        assert [block["fiberid"].tolist() for block in opened.blocks(["fiberid"], 10)] == [[2, 3]]


@pytest.mark.parametrize("place", ["before", "behind", "inside"])
@pytest.mark.parametrize(
    ("info", "message"),
    [
        ('value="OVERFLOW"/>', r"c.vot is not whole: the server cut the answer \(OVERFLOW\); ask for fewer rows"),
        ('value="ERROR">out of time</INFO>', r"c.vot is not whole: the server says ERROR out of time"),
    ],
)
def test_an_answer_that_the_server_cut_is_refused(tmp_path: Path, place: str, info: str, message: str) -> None:
    info = f'<INFO name="QUERY_STATUS" {info}'
    whole = {
        "before": f'<INFO name="QUERY_STATUS" value="OK"/>{info}{rows_of(1)}',
        "behind": f'<INFO name="QUERY_STATUS" value="OK"/>{rows_of(1)}{info}',
        "inside": rows_of(1).replace("</TABLE>", f"{info}</TABLE>"),
    }
    with pytest.raises(RefusedError, match=message):
        read_targets(votable(tmp_path, whole[place]))


def test_a_cut_votable_is_refused(tmp_path: Path) -> None:
    data = Path(write_as("vot", tmp_path / "whole.vot", table())).read_bytes()
    (tmp_path / "cut.vot").write_bytes(data[: len(data) - 60])
    with pytest.raises(ConfigError, match="a readable VOTable catalog"):
        read_targets(str(tmp_path / "cut.vot"))


def test_columns_of_other_kinds_do_not_stop_an_ecsv_table(tmp_path: Path) -> None:
    rows = QTable(
        {
            **table(),
            "SPEED": [1.0, 2.0, 3.0] * units.km / units.s,
            "WHERE": SkyCoord([1, 2, 3], [4, 5, 6], unit="deg"),
            "WHEN": Time([50000, 50001, 50002], format="mjd"),
            "FLAG": [True, False, True],
        }
    )
    rows.write(tmp_path / "c.ecsv", format="ascii.ecsv")
    found = find_targets(str(tmp_path / "c.ecsv"), keep=["SPEED", "FLAG"])
    assert found.frame["SPEED"].tolist() == [2.0, 1.0, 3.0]
    assert found.kept["SPEED"].attributes == {"units": "km s-1"}
    assert found.frame["FLAG"].tolist() == [False, True, True]
    with pytest.raises(ConfigError, match="--keep is 'WHEN', expected a column of single numbers or text"):
        find_targets(str(tmp_path / "c.ecsv"), keep=["WHEN"])
