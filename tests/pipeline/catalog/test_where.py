from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalog.where import MAX_LENGTH, combined, names, select
from pipeline.errors import ConfigError
from pipeline.surveys.sdss.survey import SELECTIONS

COLUMNS = {
    "CLASS": np.array([b"GALAXY ", b"QSO    ", b"STAR   ", b"GALAXY "]),
    "SUBCLASS": np.array(["AGN", "", "F9", "  "]),
    "SURVEY": np.ma.array(["sdss", "", "sdss", "boss"], mask=[False, True, False, False]),
    "NOTE": np.array(["a", None, np.nan, b"b "], dtype=object),
    "Z": np.array([0.1, 2.5, 0.0, np.nan], dtype=">f4"),
    "ZWARNING": np.array([0, 4, 5, 16], dtype=np.uint8),
    "PLATE": np.ma.array([266, 267, 3655, 0], mask=[False, False, False, True]),
    "SPECOBJID": np.array([2**63 + 5, 3, 2**64 - 1, 0], dtype=np.uint64),
    "PRIMARY": np.array([True, False, True, True]),
    "THETA": np.zeros((4, 10)),
}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("Z > 0", "1100"),
        ("z > 0", "1100"),
        ("0 < Z < 1", "1000"),
        ("Z == 0.0 or Z > 2", "0110"),
        ("not (Z > 1)", "1011"),
        ("Z != 0", "1100"),
        ("(Z > 0) & (PLATE == 266)", "1000"),
        ("(Z > 1) | ~(ZWARNING == 0)", "0111"),
        ("(ZWARNING & 4) == 0", "1001"),
        ("(ZWARNING | 1) != 5", "1001"),
        ("ZWARNING - 5 < 0", "1100"),
        ("PLATE in (266, 267)", "1100"),
        ("PLATE not in [266]", "0110"),
        ("PLATE in {3655}", "0010"),
        ("PLATE % 2 == 0", "1000"),
        ("PLATE // 0 == 0", "0000"),
        ("2 ** -1 == 0.5", "1111"),
        ("-Z < +0", "1100"),
        ("CLASS == 'GALAXY'", "1001"),
        ("class == 'GALAXY  '", "1001"),
        ("Class != \"GALAXY\" and class != 'class'", "0110"),
        ("CLASS in ('QSO', 'STAR')", "0110"),
        ("CLASS < 'H'", "1001"),
        ("SUBCLASS == ''", "0101"),
        ("SUBCLASS != 'AGN'", "0111"),
        ("SURVEY == 'sdss'", "1010"),
        ("SURVEY != 'sdss'", "0001"),
        ("SURVEY not in ('sdss',)", "0001"),
        ("CLASS == 'GALÄXY'", "0000"),
        ("CLASS == SUBCLASS or SUBCLASS == CLASS", "0000"),
        ("CLASS == CLASS", "1111"),
        ("NOTE == 'b'", "0001"),
        ("NOTE != 'b'", "1000"),
        ("SPECOBJID == 9223372036854775813", "1000"),
        ("SPECOBJID >= 18446744073709551615", "0010"),
        ("(SPECOBJID & 1) == 1", "1110"),
        ("PRIMARY", "1011"),
        ("PRIMARY == 1 and Z >= 0", "1010"),
        ("True", "1111"),
        ("  PLATE ==\n266", None),
        ("(PLATE ==\n 266)", "1000"),
    ],
)
def test_select(expression: str, expected: str | None):
    if expected is None:
        with pytest.raises(ConfigError):
            select(expression, COLUMNS)
        return
    rows = select(expression, COLUMNS)
    assert rows.dtype == np.bool_
    assert "".join(str(int(row)) for row in rows) == expected


@pytest.mark.parametrize(
    ("expression", "piece"),
    [
        ("__import__('os').system('true')", "__import__('os').system('true')"),
        ("().__class__.__bases__", "().__class__.__bases__"),
        ("Z.__class__ == 1", "Z.__class__"),
        ("open('/etc/passwd') == 1", "open('/etc/passwd')"),
        ("(lambda: 1)() > 0", "(lambda: 1)()"),
        ("[x for x in PLATE] == 1", "[x for x in PLATE]"),
        ("Z[0] > 1", "Z[0]"),
        ("f'{Z}' == 'a'", "f'{Z}'"),
        ("(y := 3) > 2", "y := 3"),
        ("Z if Z else Z", "Z if Z else Z"),
        ("Z @ Z > 1", "Z @ Z"),
        ("Z is None", "Z is None"),
        ("PLATE << 3 > 1", "PLATE << 3"),
        ("Z > None", "None"),
        ("Z > 1j", "1j"),
        ("CLASS == b'GALAXY'", "b'GALAXY'"),
        ("Z > ...", "..."),
        ("__builtins__ > 1", "__builtins__"),
        ("Z.__class__.__mro__[1].__subclasses__() == 1", "Z.__class__.__mro__[1].__subclasses__()"),
        ("all(x > 0 for x in Z)", "all(x > 0 for x in Z)"),
        ("{x: 1 for x in Z} == 1", "{x: 1 for x in Z}"),
        ("{'a': Z} == 1", "{'a': Z}"),
        ("PLATE in (*Z,)", "*Z"),
        ("(yield Z) > 1", "yield Z"),
        ("FOO > 1", "FOO"),
        ("Z", "Z"),
        ("CLASS", "CLASS"),
        ("not Z", "Z"),
        ("Z and PLATE == 1", "Z"),
        ("CLASS + 1 > 2", "CLASS"),
        ("'a' * 1000000000 == CLASS", "'a'"),
        ("PLATE == '266'", "PLATE == '266'"),
        ("CLASS == 3", "CLASS == 3"),
        ("CLASS in ('STAR', 3)", "3"),
        ("Z in CLASS", "CLASS"),
        ("(1, 2) == Z", "(1, 2)"),
        ("THETA > 0", "THETA"),
        ("Z > 0 & PLATE == 266", "0 & PLATE"),
        ("(0 & PLATE > 3)", "0 & PLATE"),
        ("(Z > 0) & PLATE", "(Z > 0) & PLATE"),
        ("Z > 123456789012345678901234567890", "123456789012345678901234567890"),
    ],
)
def test_what_is_not_allowed_is_refused_and_named(expression: str, piece: str):
    with pytest.raises(ConfigError) as caught:
        select(expression, COLUMNS)
    assert caught.value.key == "--where"
    assert f"`{piece}`" in str(caught.value)


def test_an_unknown_column_is_answered_with_those_there_are():
    with pytest.raises(ConfigError, match="CLASS, NOTE, PLATE, PRIMARY"):
        select("REDSHIFT > 1", COLUMNS)


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "Z >",
        "Z = 1",
        "Z > 1 AND PLATE == 2",
        "Z > 1;",
        "import os",
        "Z > 'a",
        "\0",
        "Z == 1 # \ud800",
        "x" * 20_000,
        f"Z > {'9' * 5000}",
        "Z > 1\nimport os",
        "Z > 1; __import__('os')",
    ],
)
def test_what_cannot_be_parsed_is_refused(expression: str):
    with pytest.raises(ConfigError, match="where"):
        select(expression, COLUMNS)


@pytest.mark.parametrize(
    "expression",
    ["(" * 3000 + "Z" + ")" * 3000 + " > 1", "-" * 9000 + "Z > 1", "not " * 2400 + "Z > 1", "Z+" * 4900 + "Z > 1"],
    ids=["parentheses", "signs", "nots", "sum"],
)
def test_deep_nesting_ends_in_an_answer_not_a_crash(expression: str):
    assert len(expression) < MAX_LENGTH
    message = ""
    try:
        assert select(expression, COLUMNS).shape == (4,)
    except ConfigError as error:
        message = str(error)
    assert len(message) < 500


def test_nothing_of_an_expression_is_run() -> None:
    # Python tells its audit hooks of all that it executes, opens and imports; a hook cannot be removed again.
    code = """
import sys, numpy
from pipeline.errors import ConfigError
from pipeline.catalog.where import select
def attempt(expression):
    try:
        select(expression, {"Z": numpy.array([1.0, 2.0])})
    except ConfigError:
        pass
hostile = [
    "__import__('os').system('touch executed')", "open('executed', 'w') == Z", "exec('1') > Z", "Z.tofile('executed')",
    "(lambda: open('executed', 'w'))() > Z", "[open('executed', 'w') for x in Z] == Z", "f'{open(1)}' == Z", "Z > 1",
]
for expression in hostile:
    attempt(expression)
seen = []
sys.addaudithook(lambda event, args: seen.append((event, args)) if recording else None)
recording = True
for expression in hostile:
    attempt(expression)
recording = False
print([event for event in seen if event[0] != "compile"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_huge_power_takes_no_time_and_is_infinite():
    assert select("9 ** 9 ** 9 ** 9 > Z", COLUMNS).tolist() == [True, True, True, False]


def test_two_columns_that_differ_in_case_alone_need_the_exact_name():
    columns = {"Z": np.array([1.0]), "z": np.array([2.0])}
    assert select("Z == 1", columns).all()
    assert select("z == 2", columns).all()
    with pytest.raises(ConfigError, match="Ra and ra"):
        select("RA == 1", {"Ra": np.array([1.0]), "ra": np.array([2.0])})


def test_names_are_those_of_the_columns_needed():
    assert names("class == 'Z' and (0 < z) & ~(Plate in (1, 2))") == {"class", "z", "plate"}


def test_names_refuses_what_select_would_refuse_unseen():
    with pytest.raises(ConfigError, match="exec"):
        names("exec('1')")


def test_syntax_that_python_only_remarks_on_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConfigError):
            select("1 is 1", COLUMNS)
        assert not select(r"CLASS == '\d'", COLUMNS).any()


@given(st.text(max_size=40))
def test_any_text_is_a_selection_or_a_refusal(text: str):
    try:
        rows = select(text, COLUMNS)
    except ConfigError:
        return
    assert rows.shape == (4,)


@given(
    st.lists(st.floats(width=32), min_size=1, max_size=20),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
)
def test_comparisons_agree_with_numpy(values: list[float], limit: float):
    column = np.array(values, dtype=np.float32)
    np.testing.assert_array_equal(select(f"X <= {limit!r}", {"X": column}), column <= np.float32(limit))


# --- ready-made selections ---


def test_several_selections_must_all_hold():
    columns = {"CLASS": np.array(["GALAXY", "GALAXY", "QSO"]), "SPECPRIMARY": np.array([1, 1, 1])}
    columns |= {"ZWARNING": np.array([0, 4, 0]), "Z": np.array([0.1, 0.2, 0.3])}
    both = combined(SELECTIONS, ["all-galaxies", "clean"], "Z < 1 or Z > 2")
    assert both is not None
    assert select(both, columns).tolist() == [True, False, False]
    assert combined(SELECTIONS, [], "Z > 1") == "Z > 1"
    assert combined(SELECTIONS, [], None) is None


@pytest.mark.parametrize("where", ["", " ", "1 / 0 > 1", "True", "1 < 2"])
def test_what_names_no_column_is_refused(where: str):
    with pytest.raises(ConfigError, match="where"):
        combined(SELECTIONS, [], where)


def test_an_unknown_selection_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="one of main-galaxies, all-galaxies, clean"):
        combined(SELECTIONS, ["galaxies"], None)


def test_half_an_expression_is_not_mended_by_what_stands_beside_it():
    with pytest.raises(ConfigError, match="where"):
        combined(SELECTIONS, ["clean"], "Z > 0) or (Z < 1")
