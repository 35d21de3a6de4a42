"""Layouts: where a target's spectrum is in the archive, one file each or one per plate, and how that is read.

The templates are those of SDSS's own `sdss_tree` (releases 8 to 20); the tests compare every one with
`sdss_access`. Paths are relative to the release root, such as https://data.sdss.org/sas/dr17.
"""

from __future__ import annotations

import re

from pipeline.config import MAX_CONCURRENCY
from pipeline.errors import RefusedError
from pipeline.spectra.raw import RawSpectrum, WrongSpectrum
from pipeline.surveys.sdss.files import Plate, read_plate, read_spec
from pipeline.surveys.sdss.keys import SDSS_V, Ids, ids_of, is_sdss_v, require_run2d
from pipeline.surveys.survey import Layout

_BOSS = re.compile(r"v5_(\d+)_\d+\Z")
_LAST_BOSS = 7
"""v5_7_x was the last reduction released under boss/ (DR12); later ones are under eboss/ (DR13-DR17)."""

_LAST_WITH_P = 4
"""v6_0_4 was the last reduction with a p behind the field, which is not padded there (DR18)."""


def _reduction(run2d: str) -> str:
    """Return the folder of a reduction: its survey's, by the naming of its version. Raises ConfigError."""
    require_run2d(run2d)
    boss = _BOSS.match(run2d)
    if is_sdss_v(run2d):
        survey = "spectro/boss"
    elif run2d.isdecimal():
        survey = "sdss/spectro"
    else:
        survey = "boss/spectro" if boss and int(boss[1]) <= _LAST_BOSS else "eboss/spectro"
    return f"{survey}/redux/{run2d}"


def _compressed(path: str) -> str:
    """Name the file of a mirror that keeps its files compressed."""
    return f"{path}.gz"


def _without_full(path: str) -> str:
    """Name the place of a full file in mirrors of DR9 to DR15: by plate, without the folder full/."""
    return path.replace("/spectra/full/", "/spectra/")


def _without_full_compressed(path: str) -> str:
    return _compressed(_without_full(path))


def spec_path(ids: Ids, kind: str = "lite") -> str:
    """Return a target's spec file, relative to the release root. kind: "lite", or "full" with its exposures."""
    run2d, plate, mjd, number = ids
    folder = _reduction(run2d)
    sdss_v = SDSS_V.match(run2d)
    if sdss_v is None:
        return f"{folder}/spectra/{kind}/{plate:04d}/spec-{plate:04d}-{mjd}-{number:04d}.fits"
    version, revision = int(sdss_v[1]), int(sdss_v[2])
    if version == 0 and revision <= _LAST_WITH_P:
        return f"{folder}/spectra/{kind}/{plate}p/{mjd}/spec-{plate}-{mjd}-{number:011d}.fits"
    file = f"{plate:06d}/{mjd}/spec-{plate:06d}-{mjd}-{number}.fits"
    if version <= 1:
        return f"{folder}/spectra/{kind}/{file}"
    return f"{folder}/spectra/daily/{kind}/{plate // 1000:03d}XXX/{file}"


def spec_lite_path(run2d: str, plate: int, mjd: int, fiber_or_catalogid: int) -> str:
    """Return a target's spec-lite file, relative to the release root, from its key's numbers."""
    return spec_path(Ids(run2d, plate, mjd, fiber_or_catalogid))


def plate_path(ids: Ids) -> str:
    """Return the spPlate file that holds a target, relative to the release root. Raises ConfigError for SDSS-V."""
    if is_sdss_v(ids.run2d):
        remedy = "choose spec-lite, or the targets of other reductions"
        raise RefusedError("layout", f"SDSS-V has no spPlate files, and run2d {ids.run2d} is of SDSS-V", remedy)
    return f"{_reduction(ids.run2d)}/{ids.plate:04d}/spPlate-{ids.plate:04d}-{ids.mjd}.fits"


def _numbers(ids: Ids) -> dict[str, int]:
    return {
        "plate": ids.plate,
        "mjd": ids.mjd,
        "catalogid" if is_sdss_v(ids.run2d) else "fiberid": ids.fiber_or_catalogid,
    }


def _checked(raw: RawSpectrum, ids: Ids) -> RawSpectrum:
    """Refuse the spectrum of another target; an id that the file does not have contradicts nothing."""
    if raw.contradicts(_numbers(ids)):
        fiber_or_catalogid = raw.ids.get("catalogid" if is_sdss_v(ids.run2d) else "fiberid")
        raise WrongSpectrum(f"the file holds {raw.ids.get('plate')}-{raw.ids.get('mjd')}-{fiber_or_catalogid}")
    return raw


def _spec_spectrum(raw: RawSpectrum, key: str) -> RawSpectrum:
    return _checked(raw, ids_of(key))


def _plate_spectrum(plate: Plate, key: str) -> RawSpectrum:
    ids = ids_of(key)
    return _checked(plate.spectrum(ids.fiber_or_catalogid), ids)


LAYOUTS: dict[str, Layout] = {
    "spec-lite": Layout(
        lambda key: spec_path(ids_of(key)),
        read_spec,
        _spec_spectrum,
        size=250_000,
        at_once=MAX_CONCURRENCY,
        places=(_compressed,),
    ),
    "spec": Layout(
        lambda key: spec_path(ids_of(key), "full"),
        read_spec,
        _spec_spectrum,
        size=1_800_000,
        at_once=MAX_CONCURRENCY,
        places=(_without_full, _compressed, _without_full_compressed),
    ),
    # Two plates of 1000 fibers in flight, one waiting and one being read are half a gigabyte already.
    "spPlate": Layout(
        lambda key: plate_path(ids_of(key)),
        read_plate,
        _plate_spectrum,
        size=130_000_000,
        at_once=2,
        shared=True,
        places=(_compressed,),
    ),
}
"""The layouts by the names that `--layout` takes; the first is the default."""
