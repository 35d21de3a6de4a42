"""Targets to spectra: every layout gives the same spectrum, every bad file its bit."""

from __future__ import annotations

import gzip
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import numpy as np
import pytest
from astropy.io import fits as astropy_fits

from pipeline.archive import reader as archive
from pipeline.archive.attempts import FetchCounters
from pipeline.archive.reader import Archive
from pipeline.archive.source import Source
from pipeline.catalog import targets
from pipeline.errors import ConfigError
from pipeline.spectra.normalize import Grid, normalize
from pipeline.spectra.quality import Quality
from pipeline.spectra.raw import NoSpectrum, RawSpectrum
from pipeline.surveys.sdss.files import read_spec
from pipeline.surveys.sdss.keys import ids_of
from pipeline.surveys.sdss.survey import SDSS
from spender_core import get_instrument
from tests.plates import assemble
from tests.sdss_v import sdss_v


@pytest.fixture(autouse=True)
def no_plate_is_kept() -> None:
    archive._last_shared.clear()


def spectra(root: str | Path, layout: str, *keys: str) -> list[RawSpectrum | NoSpectrum]:
    return list(Archive(Source(str(root), retries=0), SDSS.layouts[layout]).spectra(keys))


def memory_release(files: dict[str, bytes]) -> str:
    root = f"memory://{uuid.uuid4().hex}"
    for path, content in files.items():
        with fsspec.open(f"{root}/{path}", "wb") as file:
            file.write(content)
    return root


def test_every_real_spectrum_is_found_by_its_key(mirror: Path, catalog: Path):
    keys = targets.read_targets(str(catalog))["target"].tolist()
    for key, raw in zip(keys, spectra(mirror, "spec-lite", *keys), strict=True):
        assert isinstance(raw, RawSpectrum), key
        assert raw.ids["fiberid"] == ids_of(key).fiber_or_catalogid


@pytest.mark.parametrize("folder", ["full/4455", "4455"])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_full_files_are_found_with_and_without_their_folder(
    shared_data: Path, tmp_path: Path, folder: str, ending: str
):
    """As mirrors of DR9 to DR15 keep them; here a real file with its exposures, under another name."""
    data = (shared_data / "odd" / "full-with-exposures-spec-0528-52022-0137.fits").read_bytes()
    file = tmp_path / f"boss/spectro/redux/v5_7_0/spectra/{folder}/spec-4455-55945-0012.fits{ending}"
    file.parent.mkdir(parents=True)
    file.write_bytes(gzip.compress(data) if ending else data)
    (found,) = spectra(tmp_path, "spec", "v5_7_0/4455-55945-12")
    assert found == NoSpectrum(Quality.WRONG_FILE, "the file holds 528-52022-137")


def test_a_spectrum_of_dr7_is_said_to_be_one(shared_data: Path):
    case = shared_data.parent / "cases" / "spSpec-52591-1070-072.fit"
    if not case.exists():
        pytest.skip(f"no {case}")
    root = memory_release({"sdss/spectro/redux/26/spectra/lite/1070/spec-1070-52591-0072.fits": case.read_bytes()})
    (found,) = spectra(root, "spec-lite", "26/1070-52591-72")
    assert found == NoSpectrum(Quality.BAD_FILE, "a DR7 spSpec file: ask for the spec file of the same ids")


# --- plates ---


@pytest.mark.slow
def test_plates_of_real_spectra_give_what_their_own_files_give(mirror: Path, tmp_path: Path):
    grids = {name: Grid.of(get_instrument(name)) for name in SDSS.instruments}
    files = sorted(mirror.glob("*/**/spec-*.fits"))
    for file in files:
        alone = read_spec(file.read_bytes())
        path = tmp_path / "sdss/spectro/redux/26/0001/spPlate-0001-55555.fits"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(assemble([files[0], file, files[-1]], plate=1, mjd=55555))
        archive._last_shared.clear()
        (among,) = spectra(tmp_path, "spPlate", "26/1-55555-2")
        assert isinstance(among, RawSpectrum), file.name
        for grid in grids.values():
            one, other = normalize(alone, alone.z or 0, grid), normalize(among, alone.z or 0, grid)
            for name in ("flux", "ivar", "norm"):
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=file.name)
            # A file's empty ends say nothing of a plate's fiber: TRUNCATED may be set for the file alone.
            assert one.quality & ~Quality.TRUNCATED == other.quality & ~Quality.TRUNCATED, file.name
    assert len(files) == 117


def test_a_plate_reads_as_astropy_reads_it(mirror: Path):
    files = sorted((mirror / "sdss").glob("**/spec-0266-*.fits"))[:4]
    data = assemble(files, plate=266, mjd=51602)
    root = memory_release({"sdss/spectro/redux/26/0266/spPlate-0266-51602.fits": data})
    with astropy_fits.open(files_like(data)) as hdus:
        flux, ivar, and_mask = (hdus[i].data for i in range(3))
        loglam = hdus[0].header["COEFF0"] + hdus[0].header["COEFF1"] * np.arange(flux.shape[1])
    for number in range(1, 5):
        (raw,) = spectra(root, "spPlate", f"26/266-51602-{number}")
        assert isinstance(raw, RawSpectrum)
        first = int(np.argmin(np.abs(loglam - raw.axis[0])))
        span = slice(first, first + len(raw.flux))
        np.testing.assert_array_equal(raw.flux, flux[number - 1, span])
        np.testing.assert_array_equal(raw.ivar, ivar[number - 1, span])
        np.testing.assert_array_equal(raw.mask, and_mask[number - 1, span])
        outside = np.delete(np.arange(len(loglam)), span)
        assert (flux[number - 1, outside] == 0).all()


def files_like(data: bytes) -> object:
    import io

    return io.BytesIO(data)


class Counting(Source):
    """A source that counts what it reads."""

    def stream(
        self, paths: Iterable[str], counters: FetchCounters | None = None
    ) -> Iterator[bytes | FileNotFoundError]:
        def shown() -> Iterator[str]:
            for path in paths:
                reads.append(path)
                yield path

        return super().stream(shown(), counters)


reads: list[str] = []


@contextmanager
def counted() -> Iterator[list[str]]:
    reads.clear()
    yield reads


def test_a_plate_is_read_once_for_all_its_fibers_and_kept_for_the_next_chunk(mirror: Path):
    files = sorted((mirror / "sdss").glob("**/spec-*.fits"))[:6]
    plates = {
        f"sdss/spectro/redux/26/{plate:04d}/spPlate-{plate:04d}-51602.fits": assemble(files[:3], plate, 51602)
        for plate in (1, 2, 3)
    }
    release = Archive(Counting(memory_release(plates)), SDSS.layouts["spPlate"])
    keys = [f"26/{plate}-51602-{fiber}" for plate in (1, 2, 3) for fiber in (1, 2, 3)]
    with counted() as seen:
        found = [raw for span in (keys[:4], keys[4:7], keys[7:]) for raw in release.spectra(span)]
    assert [path.rsplit("/", 1)[1][8:12] for path in seen] == ["0001", "0002", "0003"]
    assert [raw.ids["fiberid"] for raw in found if isinstance(raw, RawSpectrum)] == [1, 2, 3] * 3
    assert [raw.ids["plate"] for raw in found if isinstance(raw, RawSpectrum)] == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_a_plate_that_was_missing_is_looked_for_again(mirror: Path, tmp_path: Path):
    files = sorted((mirror / "sdss").glob("**/spec-*.fits"))[:3]
    path = tmp_path / "sdss/spectro/redux/26/0001/spPlate-0001-51602.fits"
    assert spectra(tmp_path, "spPlate", "26/1-51602-1") == [NoSpectrum(Quality.NO_FILE, "the source has no file of it")]
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no plate")
    (bad,) = spectra(tmp_path, "spPlate", "26/1-51602-1")
    assert isinstance(bad, NoSpectrum)
    assert bad.bit == Quality.BAD_FILE
    path.write_bytes(assemble(files, plate=1, mjd=51602))
    (found,) = spectra(tmp_path, "spPlate", "26/1-51602-1")
    assert isinstance(found, RawSpectrum)


def test_targets_in_any_order_get_their_own_fibers(mirror: Path):
    files = sorted((mirror / "sdss").glob("**/spec-*.fits"))[:3]
    plates = {
        f"sdss/spectro/redux/26/{plate:04d}/spPlate-{plate:04d}-51602.fits": assemble(files, plate, 51602)
        for plate in (1, 2)
    }
    keys = ["26/2-51602-3", "26/1-51602-1", "26/2-51602-1", "26/1-51602-2"]
    found = spectra(memory_release(plates), "spPlate", *keys)
    assert [(raw.ids["plate"], raw.ids["fiberid"]) for raw in found if isinstance(raw, RawSpectrum)] == [
        (2, 3),
        (1, 1),
        (2, 1),
        (1, 2),
    ]


def test_whatever_is_wrong_with_a_plate_is_told_of_its_fibers_alone(mirror: Path):
    files = sorted((mirror / "sdss").glob("**/spec-*.fits"))[:3]
    good = assemble(files, 1, 51602)
    plates = {
        "sdss/spectro/redux/26/0001/spPlate-0001-51602.fits": good,
        "sdss/spectro/redux/26/0002/spPlate-0002-51602.fits": good,  # that of plate 1
        "sdss/spectro/redux/26/0003/spPlate-0003-51602.fits": good[:100_000],
        "sdss/spectro/redux/26/0004/spPlate-0004-51602.fits": b"",
        "sdss/spectro/redux/26/0006/spPlate-0006-51602.fits": assemble(files, 6, 51602, fibers=[1, 2, 2]),
    }
    keys = ["1-51602-1", "1-51602-4", "2-51602-1", "3-51602-1", "4-51602-1", "5-51602-1", "6-51602-1", "6-51602-2"]
    first, *others = spectra(memory_release(plates), "spPlate", *(f"26/{key}" for key in keys))
    assert isinstance(first, RawSpectrum)
    found = [(raw.bit, raw.reason) if isinstance(raw, NoSpectrum) else (Quality.GOOD, "") for raw in others]
    assert [bit for bit, _ in found] == [
        Quality.BAD_FILE,
        Quality.WRONG_FILE,
        Quality.BAD_FILE,
        Quality.BAD_FILE,
        Quality.NO_FILE,
        Quality.GOOD,
        Quality.BAD_FILE,
    ]
    words = ["no fiber 4", "1-51602", "truncated", "empty", "no file", "", "more than one fiber 2"]
    assert all(word in reason for word, (_, reason) in zip(words, found, strict=True)), found


def test_plates_of_sdss_v_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="SDSS-V"):
        spectra(tmp_path, "spPlate", "v6_0_4/15000-59146-4375924486")


# --- SDSS-V ---


@pytest.mark.parametrize(
    ("key", "path", "catalogid"),
    [
        ("v6_0_4/15000-59146-4375924486", "15000p/59146/spec-15000-59146-04375924486.fits", 4375924486),
        ("v6_1_3/15000-59146-27021597780", "015000/59146/spec-015000-59146-27021597780.fits", 27021597780),
        (
            "v6_1_3/15000-59146-63050394784953920",
            "015000/59146/spec-015000-59146-63050394784953920.fits",
            "63050394784953920",
        ),
    ],
)
def test_sdss_v_spectra_are_those_of_their_catalogid(mirror: Path, key: str, path: str, catalogid: int | str):
    real = sorted((mirror / "sdss").glob("**/spec-*.fits"))[0]
    place = f"spectro/boss/redux/{key.split('/')[0]}/spectra/lite/{path}"
    (raw,) = spectra(memory_release({place: sdss_v(real, catalogid=catalogid)}), "spec-lite", key)
    assert isinstance(raw, RawSpectrum)
    legacy = read_spec(real.read_bytes())
    np.testing.assert_array_equal(raw.flux, legacy.flux)
    assert (raw.ids["plate"], raw.ids["mjd"], raw.ids["catalogid"], raw.z) == (15000, 59146, int(catalogid), legacy.z)
    (other,) = spectra(memory_release({place: sdss_v(real, catalogid=7)}), "spec-lite", key)
    assert isinstance(other, NoSpectrum)
    assert other.bit == Quality.WRONG_FILE
