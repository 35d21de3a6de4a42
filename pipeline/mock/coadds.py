"""A mock release of DESI: coadds, redrock files and their catalog, laid out and written as the archive has them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from pipeline.mock.spectra import Restframes
from pipeline.surveys.desi.coadd import ARMS, START, STEP
from pipeline.surveys.desi.keys import Ids
from pipeline.surveys.desi.layouts import PRODUCTION, healpix_path

PER_FILE = 500
"""Targets of a coadd: as many as those of DR1 have, about."""

PIXEL = 27000
"""Healpix pixel of the first coadd; the next ones follow."""

_FIRST = {"B": 0, "R": 2700, "Z": 4900}  # bins of the arms' first pixels
_PIXELS = {"B": 2751, "R": 2326, "Z": 2881}
_DIAGONALS = 11  # of the resolution
_EXPOSURES = 4  # rows of EXP_FIBERMAP per target
_RELEASE, _BRICK = 9010 << 42, 22  # a TARGETID's imaging release, and the place of its brick
_COSMIC = 1 << 2  # specmask
_BAD_POSITION = 1 << 9  # fibermask
_SMALL_DELTA_CHI2 = 1 << 2  # ZWARN
_BGS_ANY, _LRG = 1 << 60, 1 << 0  # desi_mask
_NOISE = ((3600.0, 6.0), (3900.0, 2.6), (4500.0, 1.6), (5800.0, 1.1), (7500.0, 0.9), (9000.0, 1.0), (9824.0, 1.8))
"""Noise of a pixel over wavelength, relative to that of a spectrum: about that of dark-time coadds of DR1."""

_LEVEL, _SIGNAL = 3.0, 4.0  # median flux in 1e-17 erg s-1 cm-2 Angstrom-1; median of flux over noise

_TABLE = {  # columns of FIBERMAP that targets and selections need, in the order and types of the real one
    "TARGETID": "K",
    "COADD_FIBERSTATUS": "J",
    "TARGET_RA": "D",
    "TARGET_DEC": "D",
    "OBJTYPE": "3A",
    "DESI_TARGET": "K",
    "BGS_TARGET": "K",
    "COADD_NUMEXP": "I",
    "COADD_EXPTIME": "E",
}
_FILLER = 300
"""Bytes of a row of FIBERMAP that the other 60 columns take."""

_BEST_FITS = {
    "TARGETID": "K",
    "CHI2": "D",
    "COEFF": "10D",
    "Z": "D",
    "ZERR": "D",
    "ZWARN": "K",
    "NPIXELS": "K",
    "SPECTYPE": "6A",
    "SUBTYPE": "20A",
    "NCOEFF": "K",
    "DELTACHI2": "D",
}
_ZALL = {
    "TARGETID": "K",
    "SURVEY": "7A",
    "PROGRAM": "6A",
    "HEALPIX": "J",
    "Z": "D",
    "ZERR": "D",
    "ZWARN": "K",
    "SPECTYPE": "6A",
    "DELTACHI2": "D",
    "COADD_FIBERSTATUS": "J",
    "TARGET_RA": "D",
    "TARGET_DEC": "D",
    "DESI_TARGET": "K",
    "BGS_TARGET": "K",
    "ZCAT_PRIMARY": "L",
}

Row = dict[str, Any]
"""What catalogs say of a target, by the names of their columns."""


@dataclass(frozen=True)
class MockCoadd:
    """The coadd of a pixel: its files, and its targets' rows of the catalog."""

    coadd: Path
    redrock: Path
    rows: list[Row]


def write_coadds(
    root: str | Path,
    restframes: Restframes,
    n: int,
    seed: int = 0,
    *,
    per_file: int = PER_FILE,
    survey: str = "main",
    program: str = "dark",
    packed: bool = False,
) -> list[MockCoadd]:
    """Write n mock spectra as coadds with their redrock files below a release root.

    The same arguments give the same files. packed: whether masks are packed by tiles, as some reductions have them.
    """
    made = []
    for start in range(0, n, per_file):
        ids = Ids(survey, program, PIXEL + start // per_file, 0)
        targets = [_draw(restframes, seed, index, ids) for index in range(start, min(start + per_file, n))]
        rows = [row for row, _ in targets]
        files = Path(root) / healpix_path(ids, "coadd"), Path(root) / healpix_path(ids, "redrock")
        files[0].parent.mkdir(parents=True, exist_ok=True)
        arms = {arm: {name: np.stack([each[arm][name] for _, each in targets]) for name in _KINDS} for arm in ARMS}
        _coadd(ids, rows, arms, packed).writeto(files[0], overwrite=True)
        _redrock(ids, rows).writeto(files[1], overwrite=True)
        made.append(MockCoadd(*files, rows))
    return made


def write_zall(coadds: Iterable[MockCoadd], root: str | Path) -> Path:
    """Write the catalog of a mock release where the archive has it, one row per spectrum; returns the file."""
    rows = [row for each in coadds for row in each.rows]
    file = Path(root) / f"spectro/redux/{PRODUCTION}/zcatalog/v1/zall-pix-{PRODUCTION}.fits"
    file.parent.mkdir(parents=True, exist_ok=True)
    fits.BinTableHDU.from_columns(_columns(rows, _ZALL), name="ZCATALOG").writeto(file, overwrite=True)
    return file


_KINDS = {"FLUX": np.float32, "IVAR": np.float32, "MASK": np.int32}

Arms = dict[str, dict[str, NDArray[Any]]]
"""Arm -> FLUX, IVAR and MASK."""


def wavelength_of(arm: str) -> NDArray[np.float64]:
    """Return the wavelengths of an arm's pixels, Angstrom."""
    return np.round(START + STEP * (_FIRST[arm] + np.arange(_PIXELS[arm])), 4)


def _draw(restframes: Restframes, seed: int, index: int, ids: Ids) -> tuple[Row, Arms]:
    """Draw a target: its row, and what the arms saw of it."""
    rng = np.random.default_rng((seed, index))  # a spectrum depends on the seed and its own number only
    wave_rest, flux = restframes(rng, 1)
    lowest, highest = 9824.0 / float(wave_rest[-1]) - 1, 3600.0 / float(wave_rest[0]) - 1
    z = float(np.clip(rng.gamma(2.0, 0.1), max(lowest, 0.001), min(highest, 1.6)))
    scale = _LEVEL * rng.lognormal(0, 0.8)
    sigma = scale / _SIGNAL * rng.lognormal(0, 0.5)
    arms = {arm: _observed(rng, arm, wave_rest * (1 + z), scale * flux[0], sigma) for arm in ARMS}
    row = {
        "TARGETID": _RELEASE + ((ids.healpix + 1) << _BRICK) + index,
        "SURVEY": ids.survey,
        "PROGRAM": ids.program,
        "HEALPIX": ids.healpix,
        "Z": z,
        "ZERR": 2e-5,
        "ZWARN": _SMALL_DELTA_CHI2 if rng.random() < 0.03 else 0,
        "SPECTYPE": {7: "QSO", 13: "STAR"}.get(index % 20, "GALAXY"),
        "SUBTYPE": "",
        "DELTACHI2": float(rng.lognormal(5, 1)),
        "CHI2": 8000.0,
        "COEFF": np.zeros(10),
        "NCOEFF": 10,
        "NPIXELS": 7900,
        "COADD_FIBERSTATUS": _BAD_POSITION if rng.random() < 0.01 else 0,
        "TARGET_RA": float(rng.uniform(0, 360)),
        "TARGET_DEC": float(rng.uniform(-20, 80)),
        "OBJTYPE": "TGT",
        "DESI_TARGET": _BGS_ANY if ids.program == "bright" else _LRG,
        "BGS_TARGET": 0,
        "COADD_NUMEXP": _EXPOSURES,
        "COADD_EXPTIME": 4000.0,
        "ZCAT_PRIMARY": True,
    }
    return row, arms


def _observed(
    rng: np.random.Generator, arm: str, wavelength: NDArray[np.floating], flux: NDArray[np.floating], sigma: float
) -> dict[str, NDArray[Any]]:
    """Return what an arm sees of a spectrum; a few pixels are hit by cosmic rays, and masked."""
    pixels = wavelength_of(arm)
    noise = sigma * np.interp(pixels, *np.array(_NOISE).T)
    seen = np.interp(pixels, wavelength, flux) + noise * rng.standard_normal(len(pixels))
    hit = rng.random(len(pixels)) < 0.002
    seen[hit] += 50 * noise[hit]
    return {"FLUX": seen.astype(np.float32), "IVAR": (noise**-2).astype(np.float32), "MASK": np.where(hit, _COSMIC, 0)}


def _primary(ids: Ids) -> fits.PrimaryHDU:
    primary = fits.PrimaryHDU()
    primary.header.update({"SPGRP": "healpix", "SPGRPVAL": ids.healpix, "HPXPIXEL": ids.healpix, "HPXNSIDE": 64})
    primary.header.update({"HPXNEST": True, "SURVEY": ids.survey, "PROGRAM": ids.program})
    return primary


def _coadd(ids: Ids, rows: list[Row], arms: Arms, packed: bool) -> fits.HDUList:
    """Lay a coadd out: the tables of targets and exposures, then arm by arm, the scores."""
    hdus = [_primary(ids), _fibermap(ids, rows), _exposures(rows)]
    for arm in ARMS:
        hdus.append(fits.ImageHDU(wavelength_of(arm), name=f"{arm}_WAVELENGTH"))
        for name, kind in _KINDS.items():
            image = fits.CompImageHDU if packed and name == "MASK" else fits.ImageHDU
            hdus.append(image(arms[arm][name].astype(kind), name=f"{arm}_{name}"))
        hdus[-3].header["BUNIT"] = "10**-17 erg/(s cm2 Angstrom)"
        hdus[-2].header["BUNIT"] = "10**+34 (s2 cm4 Angstrom2) / erg2"
        resolution = np.zeros((len(rows), _DIAGONALS, _PIXELS[arm]), np.float32)
        resolution[:, _DIAGONALS // 2] = 1
        hdus.append(fits.ImageHDU(resolution, name=f"{arm}_RESOLUTION"))
    scores = {"TARGETID": "K", **{f"MEDIAN_COADD_SNR_{arm}": "E" for arm in ARMS}}
    ratios = {arm: np.median(arms[arm]["FLUX"] * np.sqrt(arms[arm]["IVAR"]), axis=1) for arm in ARMS}
    medians = [{f"MEDIAN_COADD_SNR_{arm}": ratios[arm][i] for arm in ARMS} for i in range(len(rows))]
    scored = [{**row, **each} for row, each in zip(rows, medians, strict=True)]
    return fits.HDUList([*hdus, fits.BinTableHDU.from_columns(_columns(scored, scores), name="SCORES")])


def _redrock(ids: Ids, rows: list[Row]) -> fits.HDUList:
    best = fits.BinTableHDU.from_columns(_columns(rows, _BEST_FITS), name="REDSHIFTS")
    return fits.HDUList([_primary(ids), best, _fibermap(ids, rows), _exposures(rows)])


def _fibermap(ids: Ids, rows: list[Row]) -> fits.BinTableHDU:
    """Lay the table of targets out; surveys before the main one name their targets' bits by their own name."""
    columns = _columns(rows, _TABLE)
    if ids.survey.startswith("sv"):
        own = [row["DESI_TARGET"] for row in rows]
        columns.append(fits.Column(f"{ids.survey.upper()}_DESI_TARGET", "K", array=own))
    columns.append(fits.Column("FILLER", f"{_FILLER}A", array=[""] * len(rows)))
    return fits.BinTableHDU.from_columns(columns, name="FIBERMAP")


def _exposures(rows: list[Row]) -> fits.BinTableHDU:
    targetids = np.repeat([row["TARGETID"] for row in rows], _EXPOSURES)
    columns = [
        fits.Column("TARGETID", "K", array=targetids),
        fits.Column("FILLER", "157A", array=[""] * len(targetids)),
    ]
    return fits.BinTableHDU.from_columns(columns, name="EXP_FIBERMAP")


def _columns(rows: list[Row], formats: dict[str, str]) -> list[fits.Column]:
    return [fits.Column(name, form, array=np.array([row[name] for row in rows])) for name, form in formats.items()]
