"""Every kind of bad file, in a run: each costs its own spectrum a bit, and no other spectrum anything."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

import pipeline
from pipeline.archive import reader as archive
from pipeline.spectra.quality import Quality
from pipeline.store import arrays as dataset
from pipeline.surveys.sdss.layouts import spec_lite_path
from tests.plates import assemble

PLATE, MJD = 4001, 55555
Table = fits.FITS_rec
GOOD = Quality.GOOD
Q = Quality


def remade(data: bytes, change: Callable[[fits.HDUList], fits.HDUList | None]) -> bytes:
    """Open a file with astropy, change it, and write it again."""
    with fits.open(io.BytesIO(data)) as hdus:
        hdus[2].data["PLATE"], hdus[2].data["MJD"] = PLATE, MJD
        changed = change(hdus) or hdus
        buffer = io.BytesIO()
        changed.writeto(buffer, output_verify="ignore")
    return buffer.getvalue()


def with_table(change: Callable[[Table], None]) -> Callable[[fits.HDUList], None]:
    def apply(hdus: fits.HDUList) -> None:
        change(hdus[1].data)

    return apply


def column(name: str, value: float, where: slice = slice(None)) -> Callable[[fits.HDUList], None]:
    def change(table: Table) -> None:
        table[name][where] = value

    return with_table(change)


def shifted(steps: int) -> Callable[[fits.HDUList], None]:
    def change(table: Table) -> None:
        table["loglam"] += np.float32(steps * 1e-4)

    return with_table(change)


def without(name: str) -> Callable[[fits.HDUList], fits.HDUList]:
    def change(hdus: fits.HDUList) -> fits.HDUList:
        kept = [each for each in hdus[1].columns if each.name != name]
        return fits.HDUList([hdus[0], fits.BinTableHDU.from_columns(fits.ColDefs(kept)), hdus[2]])

    return change


def irregular(hdus: fits.HDUList) -> None:
    hdus[1].data["loglam"][2000:] += 0.01


def as_text(hdus: fits.HDUList) -> fits.HDUList:
    columns = [
        fits.Column("flux", "8A", array=["1.0"] * len(hdus[1].data)) if each.name == "flux" else each
        for each in hdus[1].columns
    ]
    return fits.HDUList([hdus[0], fits.BinTableHDU.from_columns(columns), hdus[2]])


def swapped(hdus: fits.HDUList) -> fits.HDUList:
    return fits.HDUList([hdus[0], hdus[2], hdus[1]])


def only_image(hdus: fits.HDUList) -> fits.HDUList:
    return fits.HDUList([fits.PrimaryHDU(np.zeros((4, 4)))])


def no_rows(hdus: fits.HDUList) -> fits.HDUList:
    return fits.HDUList([hdus[0], fits.BinTableHDU(hdus[1].data[:0]), hdus[2]])


def other_fiber(hdus: fits.HDUList) -> None:
    hdus[2].data["FIBERID"] = 999


def untouched(hdus: fits.HDUList) -> None:
    pass


# what is done to the file (or its bytes), the target's z, the bits that it must get
CASES: dict[str, tuple[Callable[..., object], float, Quality]] = {
    "good": (untouched, 0.1, GOOD),
    "not FITS": (lambda data: b"<html>not found</html>", 0.1, Q.BAD_FILE),
    "empty": (lambda data: b"", 0.1, Q.BAD_FILE),
    "half": (lambda data: data[: len(data) // 2], 0.1, Q.BAD_FILE),
    "one byte": (lambda data: data[:1], 0.1, Q.BAD_FILE),
    "headers only": (lambda data: data[:5760], 0.1, Q.BAD_FILE),
    "only an image": (only_image, 0.1, Q.BAD_FILE),
    "tables swapped": (swapped, 0.1, Q.BAD_FILE),
    "no pixels": (no_rows, 0.1, Q.BAD_FILE),
    "no flux": (without("flux"), 0.1, Q.BAD_FILE),
    "no ivar": (without("ivar"), 0.1, Q.BAD_FILE),
    "no loglam": (without("loglam"), 0.1, Q.BAD_FILE),
    "no and_mask": (without("and_mask"), 0.1, Q.BAD_FILE),
    "flux is text": (as_text, 0.1, Q.BAD_FILE),
    "irregular loglam": (irregular, 0.1, Q.BAD_FILE),
    "loglam NaN": (column("loglam", np.nan, slice(9, 10)), 0.1, Q.BAD_FILE),
    "another fiber's": (other_fiber, 0.1, Q.WRONG_FILE),
    "some flux NaN": (column("flux", np.nan, slice(100, 120)), 0.1, Q.BAD_PIXELS),
    "some flux inf": (column("flux", np.inf, slice(100, 120)), 0.1, Q.BAD_PIXELS),
    "some ivar NaN": (column("ivar", np.nan, slice(100, 120)), 0.1, Q.BAD_PIXELS),
    "some ivar negative": (column("ivar", -1, slice(100, 120)), 0.1, Q.BAD_PIXELS),
    "all flux NaN": (column("flux", np.nan), 0.1, Q.BAD_PIXELS | Q.NO_PIXELS),
    "all ivar zero": (column("ivar", 0), 0.1, Q.NO_PIXELS),
    "all masked": (column("and_mask", 1 << 24), 0.1, Q.NO_PIXELS),
    "fiber flagged": (column("and_mask", 1 << 4), 0.1, Q.FIBER_MASKED),
    "all flux zero": (column("flux", 0), 0.1, Q.ZERO_FLUX),
    "flux negative": (column("flux", -3), 0.1, Q.NEGATIVE_NORM),
    "few pixels": (column("ivar", 0, slice(500, None)), 0.1, Q.FEW_PIXELS | Q.NO_NORM),
    "before the grid": (shifted(-5000), 0.1, Q.OFF_GRID),
    "after the grid": (shifted(5000), 0.1, Q.OFF_GRID),
    "over the blue end": (shifted(-500), 0.1, Q.TRUNCATED),
    "over the red end": (shifted(500), 0.1, Q.TRUNCATED),
    "no norm window": (untouched, 0.9, Q.NO_NORM),
    "z missing": (untouched, np.nan, Q.NO_REDSHIFT),
    "z infinite": (untouched, np.inf, Q.NO_REDSHIFT),
    "z below -1": (untouched, -2.0, Q.NO_REDSHIFT),
}
OF_BYTES = ("not FITS", "empty", "half", "one byte", "headers only")


@pytest.fixture(scope="module")
def original(mirror: Path) -> bytes:
    return (mirror / "sdss/spectro/redux/26/spectra/lite/0266/spec-0266-51630-0486.fits").read_bytes()


def ingest(root: Path, release: Path, zs: list[float], layout: str = "spec-lite") -> np.ndarray:
    """Plan and ingest fibers 1, 2, ... of one plate; return their quality."""
    n = len(zs)
    rows = {"PLATE": [PLATE] * n, "MJD": [MJD] * n, "FIBERID": range(1, n + 1), "RUN2D": ["26"] * n, "Z": zs}
    pd.DataFrame(rows).to_parquet(root.with_suffix(".parquet"))
    selected = pipeline.select_targets(root.with_suffix(".parquet"))
    pipeline.plan(root, targets=selected, source=release, layout=layout, shard=5)
    pipeline.run(root, stages=["ingest"], serial=True)
    stored = dataset.read_region(dataset.spectra_url(str(root)), ("flux", "ivar", "quality"), 0, n)
    assert np.isfinite(stored["ivar"]).all()
    assert (stored["ivar"] >= 0).all()
    return stored["quality"]


def test_every_bad_file_is_a_quality_bit(original: bytes, tmp_path: Path) -> None:
    release = tmp_path / "release"
    for fiberid, (name, (change, _, _)) in enumerate(CASES.items(), 1):

        def apply(hdus: fits.HDUList, change: Callable[..., object] = change, fiberid: int = fiberid) -> object:
            hdus[2].data["FIBERID"] = fiberid
            return change(hdus)

        data = change(original) if name in OF_BYTES else remade(original, apply)  # type: ignore[arg-type]
        file = release / spec_lite_path("26", PLATE, MJD, fiberid)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)  # type: ignore[arg-type]
    zs = [z for _, z, _ in CASES.values()] + [0.1]  # and one without a file
    found = [Quality(int(value)) for value in ingest(tmp_path / "run", release, zs)]
    expected = {name: bits for name, (_, _, bits) in CASES.items()} | {"missing": Quality.NO_FILE}
    assert dict(zip(expected, found, strict=True)) == expected


def test_a_bad_plate_costs_its_own_fibers_and_a_bad_fiber_itself(mirror: Path, tmp_path: Path) -> None:
    files = sorted((mirror / "sdss").glob("**/spec-0266-*.fits"))[:4]
    place = tmp_path / "release" / f"sdss/spectro/redux/26/{PLATE}/spPlate-{PLATE}-{MJD}.fits"
    place.parent.mkdir(parents=True)
    zs = [0.1] * 5
    place.write_bytes(assemble(files, PLATE, MJD, fibers=[1, 2, 2, 4]))
    quality = [Quality(int(value)) for value in ingest(tmp_path / "twice", tmp_path / "release", zs, "spPlate")]
    assert [bool(bits & Quality.BAD_FILE) for bits in quality] == [False, True, True, False, True]
    place.write_bytes(place.read_bytes()[:-200_000])
    archive._last_shared.clear()
    cut = ingest(tmp_path / "cut", tmp_path / "release", zs, "spPlate")
    assert set(cut.tolist()) == {int(Quality.BAD_FILE)}
