"""Mock files: the archive's formats, an SDSS-like noise, the same bytes every time."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits
from numpy.typing import NDArray

from pipeline.catalog.targets import read_targets
from pipeline.mock import release as mock_release
from pipeline.mock import spectra as mock
from pipeline.mock.release import Entry
from pipeline.spectra.normalize import Grid, normalize
from pipeline.surveys.sdss.files import read_plate, read_spec
from spender_core import SDSS
from tests.galaxies import flat_galaxies

pytestmark = pytest.mark.slow

FORMATS = {
    "flux": "E",
    "loglam": "E",
    "ivar": "E",
    "and_mask": "J",
    "or_mask": "J",
    "wdisp": "E",
    "sky": "E",
    "model": "E",
}
FIBER_BITS = 0xFFFF


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    return mock_release.write_spectra(tmp_path_factory.mktemp("release"), flat_galaxies, 40, seed=3)


@pytest.fixture(scope="module")
def survey(release: list[Entry]) -> list[Path]:
    return [entry.file for entry in release]


@pytest.fixture(scope="module")
def plated(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mock, "FIBERS", 25)
        return mock_release.write_plates(tmp_path_factory.mktemp("plates"), flat_galaxies, 40, seed=3)


def test_files_lie_where_the_archive_would_have_them(survey: list[Path]) -> None:
    assert survey[0].as_posix().endswith("sdss/spectro/redux/26/spectra/lite/9901/spec-9901-51544-0001.fits")
    assert len(set(survey)) == 40


def test_a_second_plate_begins_after_640_fibers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mock.FIBERS == 640
    monkeypatch.setattr(mock, "FIBERS", 2)
    files = [entry.file for entry in mock_release.write_spectra(tmp_path, flat_galaxies, 3)]
    names = ["spec-9901-51544-0001.fits", "spec-9901-51544-0002.fits", "spec-9902-51544-0001.fits"]
    assert [file.name for file in files] == names


def test_tables_and_columns_are_those_of_spec_lite_files(survey: list[Path]) -> None:
    with fits.open(survey[5]) as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "COADD", "SPECOBJ", "SPZLINE"]
        header = hdus[0].header
        assert (header["PLATEID"], header["MJD"], header["FIBERID"]) == (9901, 51544, 6)
        assert dict(zip(hdus[1].columns.names, hdus[1].columns.formats, strict=True)) == FORMATS
        row = hdus[2].data[0]
        assert (row["PLATE"], row["MJD"], row["FIBERID"], row["RUN2D"]) == (9901, 51544, 6, "26")
        assert row["CLASS"] == "GALAXY"
        assert int(row["SPECOBJID"]) == 9901 << 50 | 6 << 38 | 1544 << 24 | 26 << 10


def test_columns_are_those_of_a_real_file(survey: list[Path], mirror: Path) -> None:
    real = mirror / "sdss/spectro/redux/26/spectra/lite/0266/spec-0266-51630-0486.fits"
    with fits.open(survey[0]) as ours, fits.open(real) as theirs:
        assert ours[1].columns.names == theirs[1].columns.names
        assert ours[1].columns.formats == theirs[1].columns.formats
        assert ours[2].name == theirs[2].name
        assert set(ours[2].columns.names) <= set(theirs[2].columns.names)
        assert ours[0].header["COEFF1"] == theirs[0].header["COEFF1"]


def test_grid_steps_and_length_are_those_of_the_survey(survey: list[Path]) -> None:
    lengths = set()
    for file in survey:
        loglam = read_spec(file.read_bytes()).axis
        lengths.add(len(loglam))
        assert 3.5783 < loglam[0] < 3.5833
        assert np.abs(np.diff(loglam.astype(float)) - 1e-4).max() < 1e-6
    assert 3750 < min(lengths) < max(lengths) < 3875


def test_our_reader_and_upstream_see_the_same_spectrum(survey: list[Path]) -> None:
    from spender.data.sdss import SDSS as Upstream

    compared = 0
    for file in survey:
        raw = read_spec(file.read_bytes())
        if (raw.mask & FIBER_BITS).any():  # upstream drops those pixels
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            spec, weight, norm, z, z_err = Upstream.prepare_spectrum(str(file))
        assert torch.isfinite(spec).all()
        assert (weight > 0).sum() > 2500
        start = round((float(raw.axis[0]) - 3.578) / 1e-4)
        ours = torch.from_numpy(raw.flux)
        torch.testing.assert_close(spec[start : start + len(ours)] * norm, ours, rtol=1e-5, atol=1e-5)
        assert float(z) == pytest.approx(raw.z)
        assert float(z_err) == pytest.approx(1e-5)
        compared += 1
    assert compared > 30


def test_noise_is_as_large_as_the_file_says(survey: list[Path]) -> None:
    deviations = []
    for file in survey:
        with fits.open(file) as hdus:
            table = hdus[1].data
            good = table["ivar"] > 0
            deviations.append(((table["flux"] - table["model"]) * np.sqrt(table["ivar"]))[good])
    pulls = np.concatenate(deviations)
    assert abs(pulls.mean()) < 0.01
    assert pulls.std() == pytest.approx(1, abs=0.01)


def test_noise_is_as_large_as_in_real_spectra(survey: list[Path], mirror: Path) -> None:
    real = sorted((mirror / "sdss").glob("**/spec-*.fits"))

    def noise(files: list[Path]) -> NDArray[np.float64]:
        bands = []
        for file in files:
            with fits.open(file) as hdus:
                table = hdus[1].data
                good = table["ivar"] > 0
                sigma = table["ivar"][good] ** -0.5
                photons = np.sqrt(np.clip(table["model"][good], 0, None) + table["sky"][good])
                band = np.digitize(table["loglam"][good], np.linspace(3.585, 3.96, 16))
            if set(band) >= set(range(1, 16)):  # a real file may lack a whole camera's half
                bands.append([np.median((sigma / photons)[band == b]) for b in range(1, 16)])
        return np.asarray(np.median(bands, axis=0))

    assert np.all(np.abs(np.log(noise(survey) / noise(real))) < 0.3)


def test_some_spectra_have_flagged_pixels_dead_spans_and_fiber_bits(survey: list[Path]) -> None:
    masks = [read_spec(file.read_bytes()) for file in survey]
    bright = [(raw.mask & 1 << 23 != 0).mean() for raw in masks]
    assert 0.005 < float(np.median(bright)) < 0.06
    assert 0 < sum((raw.ivar == 0).any() for raw in masks) < 20
    assert 0 < sum((raw.mask & FIBER_BITS != 0).any() for raw in masks) < 12


def test_same_seed_same_bytes_and_other_seed_other_bytes(tmp_path: Path, survey: list[Path]) -> None:
    again = mock_release.write_spectra(tmp_path / "again", flat_galaxies, 3, seed=3)
    assert [entry.file.read_bytes() for entry in again] == [file.read_bytes() for file in survey[:3]]
    other = mock_release.write_spectra(tmp_path / "other", flat_galaxies, 1, seed=4)
    assert other[0].file.read_bytes() != survey[0].read_bytes()


def test_catalog_is_read_back_as_targets(tmp_path: Path, release: list[Entry], survey: list[Path]) -> None:
    mock_release.write_catalog(release, tmp_path / "catalog.fits")
    targets = read_targets(str(tmp_path / "catalog.fits"), where="CLASS == 'GALAXY' and Z < 1")
    assert len(targets) == len(survey)
    assert targets["target"].iloc[0] == "26/9901-51544-1"
    assert targets["specobjid"].iloc[0] == 9901 << 50 | 1 << 38 | 1544 << 24 | 26 << 10
    z = [read_spec(file.read_bytes()).z for file in survey]
    assert targets["z"].tolist() == pytest.approx(z)
    assert (targets["sn_median"] > 0).all()


def test_catalog_takes_real_files_too(tmp_path: Path, mirror: Path) -> None:
    real = [mock_release.entry_of(file) for file in sorted((mirror / "sdss").glob("**/spec-0266-*.fits"))]
    mock_release.write_catalog(real, tmp_path / "catalog.fits")
    assert len(read_targets(str(tmp_path / "catalog.fits"))) == len(real)


def test_an_entry_read_back_from_its_file_is_the_one_written(release: list[Entry]) -> None:
    again = mock_release.entry_of(release[4].file)
    for name, value in release[4].values.items():
        assert again.values[name] == (pytest.approx(value) if isinstance(value, float) else value)


# --- plates ---


def test_plates_lie_where_the_archive_would_have_them(plated: list[Entry]) -> None:
    files = list(dict.fromkeys(entry.file for entry in plated))
    assert [file.as_posix().split("redux/")[1] for file in files] == [
        "26/9901/spPlate-9901-51544.fits",
        "26/9902/spPlate-9902-51544.fits",
    ]


def test_a_plate_has_the_images_of_the_datamodel(plated: list[Entry]) -> None:
    with fits.open(plated[0].file) as hdus:
        header = hdus[0].header
        assert (header["PLATEID"], header["MJD"], header["COEFF1"]) == (9901, 51544, 1e-4)
        assert [hdu.data.dtype.str for hdu in hdus[:5]] == [">f4", ">f4", ">i4", ">i4", ">f4"]
        assert {hdu.data.shape for hdu in (*hdus[:5], hdus[6])} == {(25, len(mock.AXIS))}
        assert hdus[5].data["FIBERID"].tolist() == list(range(1, 26))
        assert np.array_equal(hdus[1].data == 0, hdus[1].data <= 0)


def test_a_fiber_of_a_plate_is_the_spectrum_of_its_own_file(survey: list[Path], plated: list[Entry]) -> None:
    grid = Grid.of(SDSS())
    for file, entry in zip(survey, plated, strict=True):
        alone = read_spec(file.read_bytes())
        among = read_plate(entry.file.read_bytes()).spectrum(entry.values["FIBERID"])
        assert (among.ids["mjd"], among.ids["fiberid"]) == (51544, entry.values["FIBERID"])
        one, other = (normalize(raw, alone.z or 0, grid) for raw in (alone, among))
        for name in ("flux", "ivar", "norm", "quality"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=file.name)


def test_a_plates_catalog_is_that_of_its_spectra(tmp_path: Path, release: list[Entry], plated: list[Entry]) -> None:
    mock_release.write_catalog(release[:25], tmp_path / "spectra.fits")
    mock_release.write_catalog(plated[:25], tmp_path / "plates.fits")
    assert (tmp_path / "spectra.fits").read_bytes() == (tmp_path / "plates.fits").read_bytes()
