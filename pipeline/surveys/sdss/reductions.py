"""Reductions (RUN2D) of SDSS plates by rule, and what each release serves.

The spectrograph decides: plates below 3510 are SDSS's own (26, 103, 104), those from 3510 on BOSS's and eBOSS's,
reduced again for nearly every release. SDSS-V has fields in the place of plates, and a reduction for each release.

Sources: www.sdss.org/dr17/data_access/bulk ("Optical Spectra Versions") and the same pages of DR9 to DR16;
www.sdss3.org/dr10/spectro/spectro_basics.php for the plates of each survey: 266 to 2974 SDSS Legacy and SEGUE-1 (26),
3000 to 3509 SEGUE-2 (104), from 3510 on BOSS. The plates of star clusters (103) are "segcluster" in PROGRAMNAME of
specObj, between 1960 and 2912; no page lists them, so that only the archive tells them from their neighbors (26).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pipeline.surveys.sdss.ids import compose_specobjid

if TYPE_CHECKING:
    import pandas as pd

FIRST_BOSS_PLATE = 3510
"""The first plate of the BOSS spectrograph; those before have 640 fibers, those from here on 1000."""

MAX_FIBER = 1000
"""The last fiber of a plate; what is above is a catalogid of SDSS-V."""

LEGACY, CLUSTERS, SEGUE2 = "26", "103", "104"

BOSS = {
    9: ("v5_4_45",),
    10: ("v5_5_12",),
    11: ("v5_6_5",),
    12: ("v5_7_0", "v5_7_2"),  # the main survey; the programs after it, SEQUELS among them
    13: ("v5_9_0",),
    14: ("v5_10_0",),
    15: ("v5_10_0",),
    16: ("v5_13_0",),
    17: ("v5_13_2",),
}
"""Reductions of BOSS and eBOSS by release."""

SDSS_V = {18: ("v6_0_4",), 19: ("v6_1_3",), 20: ("v6_2_1",)}
"""Reductions of SDSS-V by release."""

KNOWN = (LEGACY, CLUSTERS, SEGUE2, *dict.fromkeys(name for names in BOSS.values() for name in names))
"""Reductions with plates, MJDs and fibers that releases 8 to 17 have served."""

# Plates below 3000 that SEGUE-2 observed; on earlier nights they were Legacy's or SEGUE-1's.
_SEGUE2_BELOW_3000 = frozenset({2640, 2957, 2962})
FIRST_SEGUE2_PLATE, _FIRST_SEGUE2_MJD = 3000, 54700
_CLUSTER_PLATES = range(1960, 2913)
_RELEASE = re.compile(r"(?:^|[/.])dr(\d{1,2})(?=[/.:]|$)", re.IGNORECASE)


def release_of(url: str) -> int | None:
    """Return the data release that an archive's URL names, as in .../sas/dr17; None where it names none."""
    found = _RELEASE.findall(url)
    return int(found[-1]) if found else None


def candidates(plate: int, release: int | None = None, mjd: int | None = None) -> tuple[str, ...]:
    """Name the reductions that may hold a plate, the most likely first: the first is the rule's own answer.

    release: data release of the archive, None where it is unknown: the newest. mjd: the night, which tells apart the
    three plates that two surveys observed. The others follow since mirrors keep reductions of several releases, and
    since no list tells the plates of star clusters: which of them has a file is the archive's to say.
    """
    if plate >= FIRST_BOSS_PLATE:
        return _of_release(BOSS, release)
    late = plate in _SEGUE2_BELOW_3000 and mjd is not None and mjd >= _FIRST_SEGUE2_MJD
    if plate >= FIRST_SEGUE2_PLATE or late:
        return SEGUE2, LEGACY, CLUSTERS
    return (LEGACY, CLUSTERS, SEGUE2) if plate in _CLUSTER_PLATES else (LEGACY, SEGUE2, CLUSTERS)


def field_candidates(release: int | None = None) -> tuple[str, ...]:
    """Name the reductions that may hold a field of SDSS-V, the most likely first."""
    return _of_release(SDSS_V, release)


def reductions_of(target: str, url: str) -> tuple[str, ...]:
    """Name the reductions that may hold a target, given its key, at a release root; "" for none."""
    plate, mjd, last = (int(number) for number in target.split("/")[1].split("-"))
    release = release_of(url)
    return field_candidates(release) if last > MAX_FIBER else candidates(plate, release, mjd)


def reduced(target: str, run2d: str) -> str:
    """Return the key of a target in a reduction."""
    return f"{run2d}/{target.split('/')[1]}"


def named(frame: pd.DataFrame) -> pd.DataFrame:
    """Bring the keys of targets, and the specobjids of those with a fiber, to their `run2d`."""
    numbers = frame["target"].str.split("/").str[1]
    plate, mjd, fiberid = (frame[name].to_numpy() for name in ("plate", "mjd", "fiberid"))
    composed = compose_specobjid(frame["run2d"].to_numpy(dtype=np.str_), plate, mjd, fiberid)
    specobjid = np.where(fiberid > 0, composed, frame["specobjid"])
    return frame.assign(target=frame["run2d"] + "/" + numbers, specobjid=specobjid)


def _of_release(reductions: Mapping[int, tuple[str, ...]], release: int | None) -> tuple[str, ...]:
    """Name a release's reductions, then those of the releases before it, then of those after it."""
    newest_first = sorted(reductions, reverse=True)
    if release is not None:
        newest_first.sort(key=lambda other: other > release)
    return tuple(dict.fromkeys(name for each in newest_first for name in reductions[each]))
