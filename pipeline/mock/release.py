"""A mock release: spec-lite files, spPlate files and their catalog, laid out and written as the archive has them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from pipeline.mock.spectra import AXIS, LOG_STEP, MJD, RUN2D, MockTarget, Restframes, draw
from pipeline.surveys.sdss.ids import compose_specobjid
from pipeline.surveys.sdss.keys import Ids
from pipeline.surveys.sdss.layouts import plate_path, spec_lite_path

_NO_DATA = 1 << 24
"""SPPIXMASK NODATA: what a plate's images say of pixels that a fiber has not."""

_FORMATS = {
    "SURVEY": "6A",
    "INSTRUMENT": "4A",
    "PLATEQUALITY": "8A",
    "SPECPRIMARY": "B",
    "SPECOBJID": "22A",
    "RUN2D": "7A",
    "TARGETTYPE": "8A",
    "SOURCETYPE": "19A",
    "PLATE": "J",
    "MJD": "J",
    "FIBERID": "J",
    "PLUG_RA": "D",
    "PLUG_DEC": "D",
    "CLASS": "6A",
    "SUBCLASS": "21A",
    "Z": "E",
    "Z_ERR": "E",
    "ZWARNING": "J",
    "SN_MEDIAN_ALL": "E",
}
"""Columns of a spec file's second table and of the catalog, and their FITS formats: those that targets need."""


@dataclass(frozen=True)
class Entry:
    """A spectrum that was written: the file that holds it, and its row of the catalog."""

    file: Path
    values: dict[str, Any]


def entry_of(file: str | Path) -> Entry:
    """Read a spec file's row of the catalog from its second table; the file may be a real one."""
    with fits.open(file) as hdus:
        return Entry(Path(file), {name: hdus[2].data[name][0] for name in _FORMATS})


def write_spectra(root: str | Path, restframes: Restframes, n: int, seed: int = 0) -> list[Entry]:
    """Write n mock spectra as spec-lite files below a release root, those of `mock.draw`."""
    entries = []
    for target in draw(restframes, n, seed):
        file = Path(root) / spec_lite_path(RUN2D, target.plate, MJD, target.fiberid)
        file.parent.mkdir(parents=True, exist_ok=True)
        _spec_lite(target).writeto(file, overwrite=True)
        entries.append(Entry(file, _values(target)))
    return entries


def write_plates(root: str | Path, restframes: Restframes, n: int, seed: int = 0) -> list[Entry]:
    """Write n mock spectra, the same as `write_spectra`, as spPlate files below a release root."""
    entries = []
    for plate, members in itertools.groupby(draw(restframes, n, seed), key=lambda target: target.plate):
        targets = list(members)
        file = Path(root) / plate_path(Ids(RUN2D, plate, MJD, 1))
        file.parent.mkdir(parents=True, exist_ok=True)
        _plate(targets).writeto(file, overwrite=True)
        entries += [Entry(file, _values(target)) for target in targets]
    return entries


def write_catalog(entries: Iterable[Entry], output: str | Path) -> None:
    """Write a specObj-like catalog, one row per spectrum, in the order given."""
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    columns = _columns([entry.values for entry in entries])
    fits.BinTableHDU.from_columns(columns, name="SPECOBJ").writeto(output, overwrite=True)


def _columns(rows: list[dict[str, Any]]) -> list[fits.Column]:
    return [fits.Column(name, form, array=[row[name] for row in rows]) for name, form in _FORMATS.items()]


def _values(target: MockTarget) -> dict[str, Any]:
    ids = (np.array([value], dtype=np.int32) for value in (target.plate, MJD, target.fiberid))
    return {
        "SURVEY": "mock",
        "INSTRUMENT": "SDSS",
        "PLATEQUALITY": "good",
        "SPECPRIMARY": 1,
        "SPECOBJID": str(compose_specobjid(np.array([RUN2D]), *ids)[0]),
        "RUN2D": RUN2D,
        "TARGETTYPE": "SCIENCE",
        "SOURCETYPE": "GALAXY",
        "PLATE": target.plate,
        "MJD": MJD,
        "FIBERID": target.fiberid,
        "PLUG_RA": target.ra,
        "PLUG_DEC": target.dec,
        "CLASS": "GALAXY",
        "SUBCLASS": "",
        "Z": target.spectrum.z,
        "Z_ERR": 1e-5,
        "ZWARNING": 0,
        "SN_MEDIAN_ALL": target.spectrum.sn_median,
    }


def _spec_lite(target: MockTarget) -> fits.HDUList:
    """Lay a spectrum out as spec-lite files are: header, COADD, SPECOBJ, SPZLINE."""
    spectrum, plate, fiberid = target.spectrum, target.plate, target.fiberid
    ids = {"PLATEID": plate, "MJD": MJD, "FIBERID": fiberid}
    primary = fits.PrimaryHDU()
    primary.header.update({**ids, "COEFF0": float(spectrum.loglam[0]), "COEFF1": LOG_STEP, "TELESCOP": "MOCK"})
    formats = dict.fromkeys(("flux", "loglam", "ivar", "and_mask", "or_mask", "wdisp", "sky", "model"), "E")
    formats.update(and_mask="J", or_mask="J")
    coadd = [fits.Column(name, form, array=getattr(spectrum, name)) for name, form in formats.items()]
    lines = (("[O_II] 3725", 3727.09), ("H_beta", 4862.68), ("[O_III] 5007", 5008.24), ("H_alpha", 6564.61))
    spzline = [
        fits.Column("PLATE", "J", array=np.full(len(lines), plate)),
        fits.Column("MJD", "J", array=np.full(len(lines), MJD)),
        fits.Column("FIBERID", "J", array=np.full(len(lines), fiberid)),
        fits.Column("LINENAME", "13A", array=[name for name, _ in lines]),
        fits.Column("LINEWAVE", "D", array=[wavelength for _, wavelength in lines]),
        fits.Column("LINEZ", "E", array=np.full(len(lines), spectrum.z)),
        fits.Column("LINEZ_ERR", "E", array=np.full(len(lines), -1.0)),  # -1: not measured
    ]
    return fits.HDUList(
        [
            primary,
            fits.BinTableHDU.from_columns(coadd, name="COADD"),
            fits.BinTableHDU.from_columns(_columns([_values(target)]), name="SPECOBJ"),
            fits.BinTableHDU.from_columns(spzline, name="SPZLINE"),
        ]
    )


def _plate(targets: list[MockTarget]) -> fits.HDUList:
    """Lay a plate out as spPlate files are: flux, ivar, and_mask, or_mask, dispersion, plug map, sky."""
    images = {
        name: np.full((len(targets), len(AXIS)), fill, dtype)
        for name, fill, dtype in (
            ("flux", 0, np.float32),
            ("ivar", 0, np.float32),
            ("and_mask", _NO_DATA, np.int32),
            ("or_mask", _NO_DATA, np.int32),
            ("wdisp", 0, np.float32),
            ("sky", 0, np.float32),
        )
    }
    for row, target in enumerate(targets):
        first = round((target.spectrum.loglam[0] - AXIS[0]) / LOG_STEP)
        for name, image in images.items():
            values: NDArray[Any] = getattr(target.spectrum, name)
            image[row, first : first + len(values)] = values
    primary = fits.PrimaryHDU(images["flux"])
    primary.header.update(
        {"PLATEID": targets[0].plate, "MJD": MJD, "COEFF0": AXIS[0], "COEFF1": LOG_STEP, "BUNIT": "1E-17 erg/cm^2/s/A"}
    )
    plugmap = [
        fits.Column("OBJTYPE", "16A", array=["GALAXY"] * len(targets)),
        fits.Column("RA", "D", array=[target.ra for target in targets]),
        fits.Column("DEC", "D", array=[target.dec for target in targets]),
        fits.Column("FIBERID", "J", array=[target.fiberid for target in targets]),
    ]
    return fits.HDUList(
        [
            primary,
            *(fits.ImageHDU(images[name]) for name in ("ivar", "and_mask", "or_mask", "wdisp")),
            fits.BinTableHDU.from_columns(plugmap),
            fits.ImageHDU(images["sky"]),
        ]
    )
