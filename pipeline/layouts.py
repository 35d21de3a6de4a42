"""Where a target's spectrum lies in the archive: one file each, or one file per plate.

The templates are those of SDSS's own `sdss_tree` (releases 8 to 20); the tests compare every one with
`sdss_access`. Paths are relative to the release root, such as https://data.sdss.org/sas/dr17.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.config import MAX_CONCURRENCY, ConfigError

RUN2D = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
"""A reduction's name, as a pattern: it becomes a folder of every path, and nothing but one folder."""

KEY = rf"({RUN2D})/([0-9]{{1,10}})-([0-9]{{1,10}})-([0-9]{{1,19}})"
"""A target's key, as a pattern: run2d/plate-mjd-fiberid, or run2d/field-mjd-catalogid."""

_RUN2D = re.compile(rf"{RUN2D}\Z")
_KEY = re.compile(rf"{KEY}\Z")
_BOSS = re.compile(r"v5_(\d+)_\d+\Z")
_SDSS_V = re.compile(r"v6_(\d+)_\d+\Z")
_LAST_BOSS = 7
"""v5_7_x was the last reduction released under boss/ (DR12); later ones are under eboss/ (DR13-DR17)."""


class Ids(NamedTuple):
    """What a target's key says: reduction, plate (SDSS-V: field), MJD, fiber (SDSS-V: catalogid)."""

    run2d: str
    plate: int
    mjd: int
    last: int


@dataclass(frozen=True)
class Layout:
    """One way in which an archive keeps spectra.

    path: ids -> file, relative to the release root. size: typical bytes of a file. at_once: most files that a
    task has in flight. shared: a file holds the spectra of many targets.
    """

    path: Callable[[Ids], str]
    size: int
    at_once: int
    shared: bool = False


def is_sdss_v(run2d: str) -> bool:
    """Whether a reduction names its spectra by field, MJD and catalogid (DR18 and later)."""
    return _SDSS_V.match(run2d) is not None


def ids_of(target: str) -> Ids:
    """Take a target's key, `run2d/plate-mjd-fiberid` or `run2d/field-mjd-catalogid`, apart. Raises ConfigError."""
    parts = _KEY.match(target)
    if parts is None:
        raise ConfigError("target", target, "a key such as 26/266-51602-1")
    return Ids(parts[1], int(parts[2]), int(parts[3]), int(parts[4]))


def _reduction(run2d: str) -> str:
    """Return the folder of a reduction: its survey's, by the naming of its version. Raises ConfigError."""
    if not _RUN2D.match(run2d):
        raise ConfigError("run2d", run2d, "the name of a reduction, such as 26 or v5_13_2")
    boss = _BOSS.match(run2d)
    if is_sdss_v(run2d):
        survey = "spectro/boss"
    elif run2d.isdecimal():
        survey = "sdss/spectro"
    else:
        survey = "boss/spectro" if boss and int(boss[1]) <= _LAST_BOSS else "eboss/spectro"
    return f"{survey}/redux/{run2d}"


def _spec(kind: str, ids: Ids) -> str:
    """Path of a spec file; kind: "lite" (co-added spectrum) or "full" (with its exposures)."""
    folder = _reduction(ids.run2d)
    sdss_v = _SDSS_V.match(ids.run2d)
    if sdss_v is None:
        name = f"spec-{ids.plate:04d}-{ids.mjd}-{ids.last:04d}.fits"
        return f"{folder}/spectra/{kind}/{ids.plate:04d}/{name}"
    version = int(sdss_v[1])
    if version == 0:
        return f"{folder}/spectra/{kind}/{ids.plate}p/{ids.mjd}/spec-{ids.plate}-{ids.mjd}-{ids.last:011d}.fits"
    file = f"{ids.plate:06d}/{ids.mjd}/spec-{ids.plate:06d}-{ids.mjd}-{ids.last}.fits"
    if version == 1:
        return f"{folder}/spectra/{kind}/{file}"
    return f"{folder}/spectra/daily/{kind}/{ids.plate // 1000:03d}XXX/{file}"


def spec_lite_path(run2d: str, plate: int, mjd: int, last: int) -> str:
    """Return a target's spec-lite file, relative to the release root. last: fiberid, or SDSS-V's catalogid."""
    return _spec("lite", Ids(run2d, plate, mjd, last))


def _spec_lite(ids: Ids) -> str:
    return _spec("lite", ids)


def _spec_full(ids: Ids) -> str:
    return _spec("full", ids)


def _plate(ids: Ids) -> str:
    if is_sdss_v(ids.run2d):
        remedy = "choose spec-lite, or the targets of other reductions"
        raise ConfigError("layout", "spPlate", f"a layout that has run2d {ids.run2d}: SDSS-V has no spPlate", remedy)
    return f"{_reduction(ids.run2d)}/{ids.plate:04d}/spPlate-{ids.plate:04d}-{ids.mjd}.fits"


LAYOUTS: dict[str, Layout] = {
    "spec-lite": Layout(_spec_lite, size=250_000, at_once=MAX_CONCURRENCY),
    "spec": Layout(_spec_full, size=1_800_000, at_once=MAX_CONCURRENCY),
    # Two plates of 1000 fibers in flight, one waiting and one being read are half a gigabyte already.
    "spPlate": Layout(_plate, size=130_000_000, at_once=2, shared=True),
}
"""The layouts by the names that `--layout` takes."""


def paths(layout: str, targets: Iterable[str]) -> list[str]:
    """Return the file of every target, by its key, relative to the release root. Raises ConfigError."""
    path = LAYOUTS[layout].path
    return [path(ids_of(target)) for target in targets]
