from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits as astropy_fits
from hypothesis import given
from hypothesis import strategies as st

from pipeline.spectra.raw import BadSpectrum, RawSpectrum
from pipeline.surveys.sdss.files import read_spec

COLUMNS = ("flux", "loglam", "ivar", "and_mask")


def spec_files(shared_data: Path) -> list[Path]:
    return sorted(shared_data.glob("sas/**/spec-*.fits"))


def make_file(
    columns: list[astropy_fits.Column], identity: list[astropy_fits.Column] | None = None, **header: object
) -> bytes:
    hdus = [astropy_fits.PrimaryHDU(), astropy_fits.BinTableHDU.from_columns(columns)]
    hdus[1].header.update(header)
    if identity is not None:
        hdus.append(astropy_fits.BinTableHDU.from_columns(identity))
    buffer = io.BytesIO()
    astropy_fits.HDUList(hdus).writeto(buffer)
    return buffer.getvalue()


def coadd(n: int = 50, **replaced: astropy_fits.Column | None) -> list[astropy_fits.Column]:
    columns: dict[str, astropy_fits.Column | None] = {
        "flux": astropy_fits.Column("flux", "E", array=np.linspace(1, 2, n)),
        "loglam": astropy_fits.Column("loglam", "E", array=3.58 + 1e-4 * np.arange(n)),
        "ivar": astropy_fits.Column("ivar", "E", array=np.ones(n)),
        "and_mask": astropy_fits.Column("and_mask", "J", array=np.zeros(n, np.int32)),
    }
    return [column for column in (columns | replaced).values() if column is not None]


def loglam(values: np.ndarray) -> list[astropy_fits.Column]:
    return coadd(len(values), loglam=astropy_fits.Column("loglam", "E", array=values))


def assert_same(one: RawSpectrum, other: RawSpectrum) -> None:
    for name in ("flux", "ivar", "axis", "mask"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def ids_of(raw: RawSpectrum) -> tuple[int | None, ...]:
    return tuple(raw.ids.get(name) for name in ("plate", "mjd", "fiberid"))


@pytest.mark.slow
def test_every_real_file_reads_as_astropy_reads_it(shared_data: Path):
    files = spec_files(shared_data) + [p for p in sorted((shared_data / "odd").iterdir()) if "not-fits" not in p.name]
    assert len(files) > 3
    for path in files:
        raw = read_spec(path.read_bytes())
        with astropy_fits.open(path) as hdus:
            table = hdus[1].data
            for name, values in (("flux", raw.flux), ("loglam", raw.axis), ("ivar", raw.ivar)):
                assert values.dtype == np.float32
                assert values.dtype.isnative
                np.testing.assert_array_equal(values, table[name], err_msg=path.name)
            assert raw.is_log
            np.testing.assert_array_equal(raw.mask, table["and_mask"].astype(np.int64) % 2**32)
            assert raw.mask.dtype == np.int64
            row = hdus[2].data[0]
            assert ids_of(raw) == (row["PLATE"], row["MJD"], row["FIBERID"]), path.name
            assert np.float32(raw.z or 0.0) == row["Z"]
            assert np.float32(raw.z_err or 0.0) == row["Z_ERR"]


def test_ids_in_every_real_file_are_those_of_its_name(shared_data: Path):
    for path in spec_files(shared_data):
        plate, mjd, fiberid = (int(part) for part in path.stem.split("-")[1:])
        raw = read_spec(path.read_bytes())
        assert not raw.contradicts({"plate": plate, "mjd": mjd, "fiberid": fiberid})
        assert raw.contradicts({"plate": plate, "mjd": mjd, "fiberid": fiberid + 1})


def test_single_exposures_after_the_third_extension_are_ignored(shared_data: Path):
    data = (shared_data / "odd" / "full-with-exposures-spec-0528-52022-0137.fits").read_bytes()
    raw = read_spec(data)
    assert (*ids_of(raw), len(raw.flux)) == (528, 52022, 137, 3844)


def test_a_short_spectrum_is_read(shared_data: Path):
    raw = read_spec((shared_data / "odd" / "short-710px-spec-5400-56308-0220.fits").read_bytes())
    assert len(raw.flux) == 710


def test_an_all_masked_spectrum_is_read(shared_data: Path):
    raw = read_spec((shared_data / "odd" / "all-zero-ivar-spec-0269-51581-0003.fits").read_bytes())
    assert not raw.ivar.any()


def test_a_file_that_is_not_fits_is_refused(shared_data: Path):
    with pytest.raises(BadSpectrum, match="not a FITS file"):
        read_spec((shared_data / "odd" / "not-fits-spec-8521-58175-0279.fits").read_bytes())


@pytest.mark.parametrize("data", [b"", b"\0" * 10_000, b"<html>404</html>", b"SIMPLE  =" + b" " * 3000])
def test_other_bytes_are_refused(data: bytes):
    with pytest.raises(BadSpectrum):
        read_spec(data)


def test_a_file_without_second_table_has_neither_ids_nor_redshift():
    raw = read_spec(make_file(coadd()))
    assert (*ids_of(raw), raw.z, raw.z_err) == (None,) * 5
    assert not raw.contradicts({"plate": 1, "mjd": 2, "fiberid": 3})


def test_ids_are_found_by_name_in_any_case_whatever_stands_before_them():
    identity = [
        astropy_fits.Column("SURVEY", "6A", array=["sdss"]),
        astropy_fits.Column("MAG", "5E", array=[np.ones(5)]),
        astropy_fits.Column("BITS", "11X", array=[np.zeros(11, bool)]),
        astropy_fits.Column("Plate", "J", array=[266]),
        astropy_fits.Column("MJD", "K", array=[51602]),
        astropy_fits.Column("fiberid", "I", array=[7]),
        astropy_fits.Column("z", "D", array=[0.25]),
    ]
    raw = read_spec(make_file(coadd(), identity))
    assert (*ids_of(raw), raw.z, raw.z_err) == (266, 51602, 7, 0.25, None)


def test_upper_case_columns_are_read():
    columns = [astropy_fits.Column(c.name.upper(), c.format, array=c.array) for c in coadd()]
    assert_same(read_spec(make_file(columns)), read_spec(make_file(coadd())))


def test_the_highest_mask_bit_is_not_a_sign():
    mask = np.full(50, -(2**31) + 16, np.int32)
    raw = read_spec(make_file(coadd(and_mask=astropy_fits.Column("and_mask", "J", array=mask))))
    assert set(raw.mask.tolist()) == {2**31 + 16}


def test_an_unsigned_mask_column_gives_the_same_numbers():
    mask = np.full(50, 2**31 + 16, np.uint32)
    raw = read_spec(make_file(coadd(and_mask=astropy_fits.Column("and_mask", "J", bzero=2**31, array=mask))))
    assert set(raw.mask.tolist()) == {2**31 + 16}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_missing_column_is_named(name: str):
    with pytest.raises(BadSpectrum, match=f"column {name} is missing"):
        read_spec(make_file(coadd(**{name: None})))


def test_a_vector_column_is_refused():
    flux = astropy_fits.Column("flux", "2E", array=np.ones((50, 2)))
    with pytest.raises(BadSpectrum, match="column flux does not hold one number per row"):
        read_spec(make_file(coadd(flux=flux)))


def test_an_empty_table_is_refused():
    with pytest.raises(BadSpectrum, match="no pixels"):
        read_spec(make_file(coadd(0)))


def test_an_image_in_place_of_the_table_is_refused():
    buffer = io.BytesIO()
    hdus = [astropy_fits.PrimaryHDU(), astropy_fits.ImageHDU(np.ones((4, 4)))]
    astropy_fits.HDUList(hdus).writeto(buffer)
    with pytest.raises(BadSpectrum, match="not a binary table"):
        read_spec(buffer.getvalue())


STEPS = 3.58 + 1e-4 * np.arange(50)


@pytest.mark.parametrize(
    "values",
    [
        STEPS[::-1],
        np.where(np.arange(50) < 20, STEPS, STEPS + 1e-4),
        3.58 + 2e-4 * np.arange(50),
        np.full(50, 3.58),
        np.where(np.arange(50) == 20, np.nan, STEPS),
        np.where(np.arange(50) == 0, np.inf, STEPS),
        np.random.default_rng(0).permutation(STEPS),
    ],
    ids=["descending", "gap", "double step", "constant", "nan", "inf", "shuffled"],
)
def test_wavelengths_that_are_not_one_regular_run_are_refused(values: np.ndarray):
    with pytest.raises(BadSpectrum, match="loglam"):
        read_spec(make_file(loglam(values)))


def test_a_cut_file_is_refused_or_reads_as_the_whole(shared_data: Path):
    data = spec_files(shared_data)[0].read_bytes()
    whole = read_spec(data)
    refused = 0
    for size in range(0, len(data), 1440):
        try:
            assert_same(read_spec(data[:size]), whole)
        except BadSpectrum:
            refused += 1
    assert refused > 60  # the co-added table alone has 43 blocks, the cut must be noticed up to its end


def flip_bytes(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 10, 1000])):
        data[rng.randrange(len(data))] = rng.randrange(256)


def change_header(data: bytearray, rng: random.Random) -> None:
    keywords = (b"NAXIS1  =", b"NAXIS2  =", b"TFIELDS =", b"BITPIX  =", b"PCOUNT  =", b"GCOUNT  =", b"NAXIS   =")
    keywords += (b"TFORM1  =", b"TTYPE2  =", b"TFORM4  =", b"XTENSION=", b"END      ")
    values = (
        b"0",
        b"-1",
        b"1",
        b"99999999999999999999",
        b"1E5",
        b"''",
        b"'J'",
        b"'999999999D'",
        b"T",
        b"",
        b"'P'",
        b"7",
    )
    positions = [
        i for keyword in rng.sample(keywords, 2) for i in range(0, len(data), 80) if data[i : i + 9] == keyword
    ]
    for position in rng.sample(positions, min(2, len(positions))):
        data[position + 10 : position + 80] = rng.choice(values).rjust(20).ljust(70)


def cut(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.choice([1, 80, 2880, len(data)])]


def repeat(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(0, len(data), 80)
    data[start:start] = data[start : start + rng.choice([80, 2880])]


def test_no_damage_to_a_file_raises_anything_but_bad_spectrum(shared_data: Path):
    rng = random.Random(20)
    mutations: list[Callable[[bytearray, random.Random], None]] = [flip_bytes, change_header, cut, repeat]
    originals = [path.read_bytes() for path in rng.sample(spec_files(shared_data), 6)]
    reasons = []
    for i in range(600):
        data = bytearray(rng.choice(originals))
        for _ in range(rng.choice([1, 1, 3])):
            mutations[i % 4](data, rng)
        try:
            raw = read_spec(bytes(data))
        except BadSpectrum as error:
            reasons.append(str(error))
        else:
            assert len(raw.flux) == len(raw.ivar) == len(raw.axis) == len(raw.mask) > 0
            assert (raw.mask >= 0).all()
    assert all(reasons)
    assert 100 < len(reasons) < 600  # the mutations reach both outcomes
    assert len(set(reasons)) > 10


@given(st.binary(max_size=6000))
def test_no_bytes_after_a_fits_signature_raise_anything_but_bad_spectrum(data: bytes):
    with pytest.raises(BadSpectrum):
        read_spec(b"SIMPLE  =                    T" + data)


def test_a_header_without_end_is_given_up_soon():
    data = b"SIMPLE  =                    T".ljust(80) + b"COMMENT ".ljust(80) * (2**21 // 80)
    with pytest.raises(BadSpectrum, match="END"):
        read_spec(data + b"END".ljust(80))
