"""Tables of FITS files: which one, and what there is otherwise."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table

from pipeline.catalog.reader import open_catalog
from pipeline.catalog.targets import read_targets
from pipeline.errors import ConfigError, RefusedError
from tests.catalogs import table


def hdu(name: str, z: list[float], **further: list[int]) -> fits.BinTableHDU:
    rows = table(Z=z, **further)
    columns = [
        fits.Column(key, "8A" if key == "RUN2D" else "J", array=np.array(rows[key])) for key in rows if key != "Z"
    ]
    return fits.BinTableHDU.from_columns([*columns, fits.Column("Z", "E", array=np.array(z), unit="1")], name=name)


@pytest.fixture
def several(tmp_path: Path) -> str:
    """Write an image, a packed image, two tables and one in text."""
    image = np.arange(10_000.0).reshape(100, 100)
    parts = [fits.PrimaryHDU(image), fits.CompImageHDU(image), hdu("SPECOBJ", [0.1, 0.1, 0.1]), fits.ImageHDU(image)]
    parts += [
        hdu("BEST", [0.2, 0.2, 0.2], EXTRA=[1, 2, 3]),
        fits.TableHDU.from_columns([fits.Column("Z", "F8.3", array=[1.0])]),
    ]
    fits.HDUList(parts).writeto(tmp_path / "several.fits")
    return str(tmp_path / "several.fits")


@pytest.mark.parametrize(
    ("extension", "z"), [("", 0.1), ("[2]", 0.1), ("[4]", 0.2), ("[best]", 0.2), ("[SPECOBJ]", 0.1)]
)
@pytest.mark.parametrize("is_packed", [False, True])
def test_any_table_of_a_file_is_read(several: str, extension: str, z: float, is_packed: bool) -> None:
    if is_packed:
        Path(several).write_bytes(gzip.compress(Path(several).read_bytes()))
    assert read_targets(several + extension)["z"].tolist() == pytest.approx([z] * 3)


@pytest.mark.parametrize(
    ("extension", "message"),
    [
        (
            "[7]",
            r"the extension \[7\] of .*several.fits is not in the file; its tables are "
            r"\[2\] SPECOBJ with 3 rows, \[4\] BEST with 3 rows, \[5\] with 1 rows",
        ),
        ("[NONE]", r"the extension \[NONE\] of .* is not in the file"),
        ("[0]", r"the extension \[0\] of .* is no table \(it is: image\); its tables are \[2\]"),
        ("[3]", r"the extension \[3\] of .* is no table \(it is: image\)"),
        ("[1]", r"the extension \[1\] of .* is no table \(it is: bintable\)"),
    ],
)
def test_what_is_no_table_is_refused_with_those_that_there_are(several: str, extension: str, message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        read_targets(several + extension)


def test_a_file_of_images_has_no_table(tmp_path: Path) -> None:
    fits.HDUList([fits.PrimaryHDU(np.zeros(5)), fits.ImageHDU(np.zeros(5))]).writeto(tmp_path / "images.fits")
    with pytest.raises(RefusedError, match=r"no table in the FITS file .*images.fits, only: image, image"):
        read_targets(str(tmp_path / "images.fits"))


def test_units_are_those_of_the_headers(several: str, tmp_path: Path) -> None:
    columns = [fits.Column("V", "E", array=[1.0], unit="km/s"), fits.Column("W", "E", array=[1.0], unit="furlongs!")]
    columns += [fits.Column("X", "E", array=[1.0], unit="deg")]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "units.fits")
    with open_catalog(str(tmp_path / "units.fits")) as opened:
        assert opened.units == {"V": "km s-1", "W": "furlongs!", "X": "deg"}


STORED = [
    # form, TZERO, TSCAL, TNULL, what is stored, what it says; the last row is missing
    ("I", 2**15, None, -(2**15) + 9, [-(2**15), 2**15 - 1, -(2**15) + 9], [0, 2**16 - 1, None]),
    ("J", 2**31, None, 999999, [266 - 2**31, 2**31 - 1, 999999], [266, 2**32 - 1, None]),
    ("K", 2**63, None, 999999, [299489676975171584 - 2**63, 2**63 - 1, 999999], [299489676975171584, 2**64 - 1, None]),
    ("K", 2**63, None, -(2**63), [1 - 2**63, 0, -(2**63)], [1, 2**63, None]),
    ("B", -128, None, 0, [1, 255, 0], [-127, 127, None]),
    ("I", None, 0.1, -999, [212, -998, -999], [21.2, -99.8, None]),
    ("J", 5.0, 0.5, 7, [4, -6, 7], [7.0, 2.0, None]),
    ("J", None, None, 7, [4, -6, 7], [4, -6, None]),
]


@pytest.mark.parametrize(("form", "zero", "scale", "null", "stored", "expected"), STORED)
def test_numbers_are_scaled_and_missing_where_they_are_stored_as_tnull(
    tmp_path: Path,
    form: str,
    zero: int | None,
    scale: float | None,
    null: int,
    stored: list[int],
    expected: list[float | None],
) -> None:
    """The header is written behind astropy's back, which scales by itself, and differently by its version."""
    dtype = {"B": np.uint8, "I": np.int16, "J": np.int32, "K": np.int64}[form]
    made = fits.BinTableHDU.from_columns([fits.Column("N", form, array=np.array(stored, dtype))])
    made.writeto(tmp_path / "plain.fits")
    data = (tmp_path / "plain.fits").read_bytes()
    values = {"TZERO1": zero, "TSCAL1": scale, "TNULL1": null}
    cards = "".join(str(fits.Card(key, value)) for key, value in values.items() if value is not None)
    end = data.rindex(b"END" + b" " * 77)
    written = bytearray(data)
    written[end : end + len(cards) + 80] = cards.encode() + b"END".ljust(80)
    (tmp_path / "scaled.fits").write_bytes(written)
    with open_catalog(str(tmp_path / "scaled.fits")) as opened:
        (block,) = opened.blocks(["N"], 10)
    assert block["N"].tolist()[:2] == (pytest.approx(expected[:2]) if scale else expected[:2])
    assert block["N"].tolist()[2] is None
    assert block["N"].dtype.kind == ("f" if scale else "i" if form == "B" or zero is None else "u")


def test_the_ids_of_a_table_with_missing_ones_are_those_that_were_written(tmp_path: Path) -> None:
    ids = np.ma.masked_array([299489676975171584, 2**63 + 5, 0], [False, False, True], np.uint64)
    Table({"SPECOBJID": ids}).write(tmp_path / "masked.fits")
    with open_catalog(str(tmp_path / "masked.fits")) as opened:
        (block,) = opened.blocks(["SPECOBJID"], 10)
    assert block["SPECOBJID"].tolist()[:2] == [299489676975171584, 2**63 + 5]


# --- several tables ---


@pytest.mark.parametrize("is_packed", [False, True])
def test_tables_of_the_same_columns_are_refused_unless_one_is_named(tmp_path: Path, is_packed: bool) -> None:
    path = tmp_path / "two.fits"
    parts = [fits.PrimaryHDU(), hdu("A", [0.1] * 3), fits.ImageHDU(np.zeros(5000)), hdu("B", [0.2] * 3)]
    fits.HDUList(parts).writeto(path)
    if is_packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    message = r"two.fits has several tables with the same columns, \[1\] A with 3 rows and \[3\] B with 3 rows; name"
    with pytest.raises(RefusedError, match=message):
        read_targets(str(path))
    assert read_targets(f"{path}[1]")["z"].tolist() == pytest.approx([0.1] * 3)
    assert read_targets(f"{path}[b]")["z"].tolist() == pytest.approx([0.2] * 3)


@pytest.mark.parametrize(
    ("extension", "others"), [("", ["[2] SPECOBJ", "[3] BEST"]), ("[3]", ["[1] META", "[2] SPECOBJ"])]
)
def test_the_further_tables_of_a_file_can_be_named(tmp_path: Path, extension: str, others: list[str]) -> None:
    path = tmp_path / "meta.fits"
    meta = fits.BinTableHDU.from_columns([fits.Column("HISTORY", "1A", array=["a"])], name="META")
    fits.HDUList([fits.PrimaryHDU(), meta, hdu("SPECOBJ", [0.1] * 3), hdu("BEST", [0.2] * 3, EXTRA=[1] * 3)]).writeto(
        path
    )
    with open_catalog(f"{path}{extension}") as opened:
        rows = {"[1] META": 1, "[2] SPECOBJ": 3, "[3] BEST": 3}
        named = ", ".join(f"{path}{other} with {rows[other]} rows" for other in others)
        assert opened.others() == f"the file has further tables: {named}"
    with open_catalog(str(path)) as opened:
        assert [block["HISTORY"].tolist() for block in opened.blocks(["HISTORY"], 10)] == [[b"a"]]


def test_a_file_of_one_table_has_no_others(several: str, tmp_path: Path) -> None:
    fits.HDUList([fits.PrimaryHDU(), hdu("A", [0.1] * 3), fits.ImageHDU(np.zeros(5))]).writeto(tmp_path / "one.fits")
    with open_catalog(str(tmp_path / "one.fits")) as opened:
        assert opened.others() == ""


def test_a_header_that_is_cut_is_named(several: str) -> None:
    data = Path(several).read_bytes()
    Path(several).write_bytes(data[: data.index(b"SPECOBJ") + 200])
    with pytest.raises(ConfigError, match="a header is cut short or damaged: fetch the file again"):
        read_targets(several)


def test_a_header_that_is_cut_behind_the_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.fits"
    meta = fits.BinTableHDU.from_columns([fits.Column("HISTORY", "1A", array=["a"])])
    fits.HDUList([fits.PrimaryHDU(), meta, hdu("SPECOBJ", [0.1] * 3)]).writeto(path)
    path.write_bytes(path.read_bytes()[: 2880 * 3 + 500])
    for read in (lambda table: table.others(), lambda table: list(table.blocks(["HISTORY"], 10))):
        with (
            open_catalog(str(path)) as opened,
            pytest.raises(ConfigError, match="cut.fits', expected a readable fits catalog; .*a header is cut short"),
        ):
            read(opened)


# --- tables in text ---


def text_table(folder: Path, **cards: object) -> str:
    """Write a table in text as the standard describes it, 7.2: columns of characters, by their places."""
    forms = {"PLATE": "I6", "MJD": "I6", "FIBERID": "I6", "RUN2D": "A8", "Z": "F10.5", "MAG": "E12.4"}
    rows = [
        "   266 51602     9      26   0.10000  1.5000E+01",
        "   266 51602     1      26   0.20000      -999.9",
        " 10467 58138   636 v5_13_2   0.40000            ",
    ]
    widths = [6, 6, 6, 8, 10, 12]
    header = fits.Header(
        [("XTENSION", "TABLE"), ("BITPIX", 8), ("NAXIS", 2), ("NAXIS1", 48), ("NAXIS2", 3), ("PCOUNT", 0)]
        + [("GCOUNT", 1), ("TFIELDS", 6)]
    )
    for number, (name, form) in enumerate(forms.items(), start=1):
        header[f"TTYPE{number}"], header[f"TFORM{number}"] = name, form
        header[f"TBCOL{number}"] = 1 + sum(widths[: number - 1])
    header.update(cards)
    primary = fits.PrimaryHDU().header.tostring().encode()
    data = "".join(rows).encode().ljust(2880)
    path = folder / "text.fits"
    further = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), hdu("BEST", [0.3] * 3)]).writeto(further)
    path.write_bytes(primary + header.tostring().encode() + data + further.getvalue()[2880:])
    return str(path)


@pytest.mark.parametrize("extension", ["", "[1]"])
def test_a_table_in_text_is_read(tmp_path: Path, extension: str) -> None:
    path = text_table(tmp_path, TUNIT6="mag", TNULL6="-999.9", TSCAL5=2.0, TZERO5=0.5)
    frame = read_targets(path + extension)
    assert frame["target"].tolist() == ["26/266-51602-1", "26/266-51602-9", "v5_13_2/10467-58138-636"]
    assert frame["z"].tolist() == pytest.approx([0.9, 0.7, 1.3])
    with open_catalog(path + extension) as opened:
        assert opened.units == {"MAG": "mag"}
        blocks = list(opened.blocks(["MAG", "MJD"], 2))
    assert [block["MAG"].tolist() for block in blocks] == [[15.0, None], [None]]
    assert [block["MJD"].tolist() for block in blocks] == [[51602, 51602], [58138]]
    assert read_targets(f"{path}[2]")["z"].tolist() == pytest.approx([0.3] * 3)


def test_a_table_in_text_that_is_empty_or_cut_is_refused(tmp_path: Path) -> None:
    data = Path(text_table(tmp_path)).read_bytes()
    (tmp_path / "cut.fits").write_bytes(data[: 2880 * 2 + 100])
    with pytest.raises(ConfigError, match="the file is truncated: fetch it again"):
        read_targets(str(tmp_path / "cut.fits"))
    path = text_table(tmp_path, NAXIS2=0)
    Path(path).write_bytes(Path(path).read_bytes()[: 2880 * 2])
    with pytest.raises(ConfigError, match="a catalog with at least one row"):
        read_targets(path)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64])
def test_masked_numbers_that_astropy_writes_are_missing(tmp_path: Path, dtype: type[np.integer[Any]]) -> None:
    """It writes TNULL as the number before it is stored, not as the standard has it."""
    column = MaskedColumn(np.array([1, 7, 100], dtype), mask=[False, True, False])
    Table({"N": column}).write(tmp_path / "t.fits")
    assert Table.read(tmp_path / "t.fits")["N"].tolist() == [1, None, 100]
    with open_catalog(str(tmp_path / "t.fits")) as table:
        (block,) = table.blocks(["N"], 10)
    assert np.ma.getmaskarray(block["N"]).tolist() == [False, True, False]
    assert block["N"].dtype == dtype
