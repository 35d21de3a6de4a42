"""Tables in text as servers and spreadsheets write them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.catalog.formats import text
from pipeline.catalog.reader import open_catalog
from pipeline.catalog.table import Kinds
from pipeline.catalog.targets import find_targets, read_targets
from pipeline.errors import ConfigError, RefusedError
from pipeline.surveys.columns import Columns

NAMES = "plate,mjd,fiberid,run2d,z"
ROWS = ["266,51602,9,26,0.1", "266,51602,1,26,0.2", "10467,58138,636,v5_13_2,0.4"]


def write(folder: Path, *lines: str, encoding: str = "utf-8", end: str = "\n") -> str:
    path = folder / "catalog.csv"
    path.write_bytes(end.join([*lines, ""]).encode(encoding))
    return str(path)


def read(path: str, kinds: Kinds = Kinds()) -> Columns:  # noqa: B008 - immutable
    with open_catalog(path, kinds) as opened:
        (block,) = opened.blocks(opened.names, 10_000)
    return block


def read_all(path: str) -> dict[str, list[object]]:
    with open_catalog(path) as opened:
        blocks = list(opened.blocks(opened.names, 10_000))
    return {name: [value for block in blocks for value in block[name].tolist()] for name in blocks[0]}


@pytest.fixture
def expected(tmp_path: Path) -> pd.DataFrame:
    return read_targets(write(tmp_path, NAMES, *ROWS))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "before",
    [[], ["#Table1"], ["", "#Table1", ""], ["# a comment, with commas", "#Table1", "", "# and more"], ["   ", "#"]],
)
def test_names_may_follow_marks_comments_and_blank_lines(
    tmp_path: Path, expected: pd.DataFrame, encoding: str, end: str, before: list[str]
) -> None:
    path = write(
        tmp_path, *before, NAMES, ROWS[0], "", "# a comment", *ROWS[1:], "   ", "#END#", encoding=encoding, end=end
    )
    pd.testing.assert_frame_equal(read_targets(path), expected)


@pytest.mark.parametrize("delimiter", [";", "\t", "|", ", ", " ", "   "])
def test_values_may_be_apart_by_other_signs(tmp_path: Path, expected: pd.DataFrame, delimiter: str) -> None:
    lines = [line.replace(",", delimiter) for line in (NAMES, *ROWS)]
    pd.testing.assert_frame_equal(read_targets(write(tmp_path, *lines)), expected)


def test_columns_that_are_aligned_by_spaces_are_read(tmp_path: Path, expected: pd.DataFrame) -> None:
    lines = [f"  {'  '.join(cell.rjust(8) for cell in line.split(','))}  " for line in (NAMES, *ROWS)]
    pd.testing.assert_frame_equal(read_targets(write(tmp_path, *lines)), expected)


def test_names_may_be_in_the_last_comment(tmp_path: Path, expected: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(read_targets(write(tmp_path, "# made by numpy", f"# {NAMES}", *ROWS)), expected)
    with pytest.raises(RefusedError, match=r"line 2 of .* has values where the names of its columns belong"):
        read_targets(write(tmp_path, "# made by nobody", *ROWS))


def test_vizier_s_units_and_rules_are_no_values(tmp_path: Path) -> None:
    units = "\t".join(["", "d", "", "", ""])
    lines = ["#RESOURCE=yCat", "#Table\tV/154", "", NAMES.replace(",", "\t"), units, "-----\t-----\t---\t----\t----"]
    path = write(tmp_path, *lines, *(row.replace(",", "\t") for row in ROWS))
    assert len(read_targets(path)) == 3
    with open_catalog(path) as opened:
        assert opened.units == {"mjd": "d"}
    assert len(read_targets(write(tmp_path, NAMES, "-----,---,--,--,--", *ROWS))) == 3


def test_the_first_lines_belong_to_the_first_block(tmp_path: Path) -> None:
    with open_catalog(write(tmp_path, NAMES, *ROWS)) as opened:
        assert [len(block["z"]) for block in opened.blocks(["z"], 1000)] == [3]


# --- lines that do not belong ---


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["#Table1", NAMES, *ROWS, "", "#Table2", "ra,dec", "1,2"], "line 7 of .* begins another result set; put each"),
        ([NAMES, *ROWS, NAMES, *ROWS], "line 5 of .* repeats the names of the columns; put each result set"),
        ([NAMES, *ROWS, "", "ra,dec", "1,2"], "line 6 of .* has 2 values, the line of names 5; correct the line"),
        ([NAMES, ROWS[0], "# x", "", ROWS[1] + ","], "line 5 of .* has 6 values, the line of names 5"),
        ([NAMES, ROWS[0][:-6]], "line 2 of .* has 4 values, the line of names 5"),
        (
            [NAMES, *ROWS, "", "objid,u,g,r,i", "1,2,3,4,5"],
            "line 6 of .* has words where numbers belong, as a heading; ",
        ),
        ([NAMES, *ROWS, f"# {NAMES}", *ROWS], "line 5 of .* has words where numbers belong, as a heading; put each"),
        ([NAMES, *ROWS, "#Table\tV/154"], "line 5 of .* begins another result set"),
        ([NAMES, *ROWS, "#Table V_154:"], "line 5 of .* begins another result set"),
        ([NAMES, *ROWS, "#RESOURCE=yCat_5154"], "line 5 of .* begins another result set"),
        (["# only", "", "# comments"], "has no line with the names of columns"),
    ],
)
@pytest.mark.parametrize("piece", [1, 10_000])
def test_other_lines_are_refused_by_their_numbers(
    tmp_path: Path, lines: list[str], message: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "PIECE", piece)
    with pytest.raises(RefusedError, match=message):
        read_targets(write(tmp_path, *lines))


def test_other_encodings_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a readable text catalog; its text is not UTF-8, save it as UTF-8"):
        read_targets(write(tmp_path, "# Herzog für Übung", NAMES, *ROWS, encoding="latin-1"))


@pytest.mark.parametrize("comment", ["# Table end", "#Table of galaxies", "# Table 2 of the paper", "#Tables: two"])
def test_a_comment_that_speaks_of_tables_is_one(tmp_path: Path, expected: pd.DataFrame, comment: str) -> None:
    path = write(tmp_path, comment, NAMES, ROWS[0], comment, *ROWS[1:], comment)
    pd.testing.assert_frame_equal(read_targets(path), expected)


def test_rows_of_words_are_no_heading_where_words_were_before(tmp_path: Path) -> None:
    block = read(write(tmp_path, "name,kind,size", "a,b,1", "c,d,e", "f,g,2"))
    assert block["size"].tolist() == ["1", "e", "2"]
    assert read(write(tmp_path, "a,b", "x,y", "1,2", "z,w"))["a"].tolist() == ["x", "1", "z"]
    assert read(write(tmp_path, "a,b", "1,2", ",", "z,3"))["a"].tolist() == ["1", "", "z"]


def test_what_skyserver_says_in_place_of_a_table_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="has no table; the server says: Incorrect syntax near x; correct the query"):
        read_targets(write(tmp_path, "#Table1", "error_message", '"Incorrect', 'syntax near x"'))


# --- cells ---


def test_decimals_may_have_commas_between_semicolons(tmp_path: Path) -> None:
    lines = ["plate;z;wide;odd;list;tiny;id", "266;0,0212;-12,5;0,5;1,2,3;1,5e-3;7", "266;;3;1.5;4;,5;8"]
    block = read(write(tmp_path, *lines), Kinds(ids=frozenset({"id"})))
    assert block["z"].tolist() == pytest.approx([0.0212, np.nan], nan_ok=True)
    assert block["wide"].tolist() == [-12.5, 3.0]
    assert block["tiny"].tolist() == [0.0015, 0.5]
    assert block["odd"].tolist() == ["0,5", "1.5"]
    assert block["list"].tolist() == ["1,2,3", "4"]
    assert read(write(tmp_path, "a|b", "1,5|2"))["a"].tolist() == ["1,5"]


@pytest.mark.parametrize("mark", ["sep=;", '"sep=;"', "SEP=;"])
def test_the_line_in_which_excel_names_its_delimiter_is_no_heading(
    tmp_path: Path, expected: pd.DataFrame, mark: str
) -> None:
    path = write(tmp_path, mark, *(line.replace(",", ";") for line in (NAMES, *ROWS)), encoding="utf-8-sig")
    pd.testing.assert_frame_equal(read_targets(path), expected)
    block = read(write(tmp_path, mark, "a,b;c", "1,2;3"))
    assert list(block) == ["a,b", "c"]


def test_cells_become_numbers_truth_or_text_by_all_of_their_column(tmp_path: Path) -> None:
    lines = [
        "whole,real,large,flag,word,none,some,id",
        "1,1.5,18446744073709551615,true,1,,null,7",
        "-2,1e-3,0,False,x,NaN,7,",
    ]
    block = read(write(tmp_path, *lines), Kinds(text=frozenset({"word"}), ids=frozenset({"id"})))
    dtypes = {name: values.dtype.name for name, values in block.items()}
    assert dtypes["whole"] == "int64"
    assert (dtypes["real"], dtypes["large"], dtypes["flag"]) == ("float64", "uint64", "bool")
    assert block["word"].tolist() == ["1", "x"]
    assert np.isnan(block["none"]).all()
    assert block["some"].tolist() == [None, 7]
    assert block["id"].tolist() == [7, None]
    assert block["large"].tolist() == [2**64 - 1, 0]


def test_quotes_may_hold_delimiters_lines_and_spaces(tmp_path: Path) -> None:
    block = read(write(tmp_path, '"a, b",c', '"x, ""y""\nz",1', ' "padded" , 2'))
    assert block["a, b"].tolist() == ['x, "y"\nz', "padded"]
    assert block["c"].tolist() == [1, 2]


@pytest.mark.parametrize("piece", [1, 30, 10_000])
def test_pieces_do_not_show(tmp_path: Path, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f'{i},51602,{i % 640},26,0.{i},"note, of\ntwo lines {i}"' for i in range(1, 60)]
    path = write(tmp_path, f"{NAMES},note", *rows)
    expected = find_targets(path, keep=["note"]).frame
    monkeypatch.setattr(text, "PIECE", piece)
    pd.testing.assert_frame_equal(find_targets(path, keep=["note"], block=7).frame, expected)
    assert len(expected) == 59


def test_a_lone_quote_is_no_quote(tmp_path: Path) -> None:
    path = write(tmp_path, f"{NAMES},note", *(f'{row},6" slit' for row in ROWS))
    assert find_targets(path, keep=["note"]).frame["note"].tolist() == ['6" slit'] * 3


def test_a_column_that_had_text_stays_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "PIECE", 1)  # a line at a time, behind the first three
    rows = [f"{i},51602,1,26,0.1" for i in range(1, 6)]
    path = write(
        tmp_path, f"{NAMES},note", *(f"{row},{note}" for row, note in zip(rows, ["a", "", 1, 2, ""], strict=True))
    )
    assert find_targets(path, keep=["note"]).frame["note"].tolist() == ["a", "", "1", "2", ""]
    path = write(
        tmp_path, f"{NAMES},note", *(f"{row},{note}" for row, note in zip(rows, ["", 2, 3, "a", 5], strict=True))
    )
    with pytest.raises(RefusedError, match="has text in some blocks of rows and numbers in others"):
        find_targets(path, keep=["note"])


def test_a_table_without_rows_has_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a catalog with at least one row"):
        read_targets(write(tmp_path, NAMES))


def test_numbers_are_read_to_the_last_bit(tmp_path: Path) -> None:
    values = np.random.default_rng(1).uniform(0, 360, 500)
    block = read(write(tmp_path, "ra", *(repr(float(value)) for value in values)))
    np.testing.assert_array_equal(block["ra"], values)


# --- lists of keys, and tables with a column of keys ---


def are_keys(text: str) -> bool:
    """Tell keys such as 266-51602-1 behind anything: a table must not be taken for a list by its last column."""
    return re.search(r"\d+-\d+-\d+(\.fits)?\Z", text) is not None


@pytest.mark.parametrize(
    "rows",
    [
        ["plate;z;file", "266;0.02;redux/103/lite/spec-0266-51602-0001.fits", "266;0.06;x/spec-0266-51602-0162.fits"],
        ["name\tz\tkey", "NGC 1\t0.02\t26/266-51602-1", "NGC 2\t0.06\t26/266-51602-162"],
        ["z spec", "0.02 26/266-51602-1", "0.06 26/266-51602-162"],
        ["z,key", "0.02,26/266-51602-1", "0.06,26/266-51602-162"],
        ["z|key", "0.02|26/266-51602-1", "0.06|26/266-51602-162"],
        ["# z,key", "0.02,26/266-51602-1", "0.06,26/266-51602-162"],
        ["key,z", "26/266-51602-1,0.02", "26/266-51602-162,0.06"],
    ],
)
def test_a_table_with_a_column_of_keys_is_a_table(tmp_path: Path, rows: list[str]) -> None:
    block = read(write(tmp_path, *rows), Kinds(is_key=are_keys))
    assert block["z"].tolist() == [0.02, 0.06]
    assert len(block) == len(re.split("[;\t |,]", rows[0].removeprefix("# ")))


@pytest.mark.parametrize(
    "lines",
    [
        ["266-51602-1", "26/266-51602-162"],
        ['"266-51602-1"', '"26/266-51602-162"'],
        ["266-51602-1;", "26/266-51602-162;"],
        ["266-51602-1, # a, b", "", "  26/266-51602-162 # c"],
        ["id", "266-51602-1", "26/266-51602-162"],
        ["# a list", "", '"id"', '"266-51602-1"', '"26/266-51602-162"'],
    ],
)
def test_lines_of_one_key_are_a_list(tmp_path: Path, lines: list[str]) -> None:
    assert read(write(tmp_path, *lines), Kinds(is_key=are_keys))["target"].tolist() == [
        "266-51602-1",
        "26/266-51602-162",
    ]


def test_several_keys_a_line_are_no_list(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="line 1 of .* has values where the names of its columns belong"):
        read(write(tmp_path, "751-52251-160,266-51602-1"), Kinds(is_key=are_keys))


# --- signs that look like comments ---


@pytest.mark.parametrize("piece", [1, 30, 10_000])
@pytest.mark.parametrize(
    ("note", "cell"),
    [
        ('"a\n#b"', "a\n#b"),
        ('"#Table2\n#Table3\n"', "#Table2\n#Table3"),
        (f'"\n{NAMES},note\n"', f"{NAMES},note"),
        ('"say ""\n# ""hello"""', 'say "\n# "hello"'),
        ('""', ""),
    ],
)
def test_a_quoted_cell_holds_any_lines(
    tmp_path: Path, note: str, cell: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "PIECE", piece)
    rows = [f"{ROWS[0]},{note}", f"{ROWS[1]},x", "# a comment", f'{ROWS[2]},6" slit']
    block = read_all(write(tmp_path, f"{NAMES},note", *rows))
    assert block["note"] == [cell, "x", '6" slit']
    assert block["fiberid"] == [9, 1, 636]


def test_a_row_may_begin_with_the_sign_of_a_comment(tmp_path: Path) -> None:
    path = write(tmp_path, f"name,{NAMES}", f"#1,{ROWS[0]}", f"#2,{ROWS[1]}", "# end, of rows", f"x,{ROWS[2]}")
    assert read(path)["name"].tolist() == ["#1", "#2", "x"]
    path = write(tmp_path, "name z", "#1 0.1", "# end", "#2 0.2")
    assert read(path)["name"].tolist() == ["#1", "#2"]
    assert read(write(tmp_path, "z", "0.1", "#0.3", "0.2"))["z"].tolist() == [0.1, 0.2]
