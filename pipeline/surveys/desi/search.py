"""In which coadds a target may be of which only the TARGETID is known, and perhaps its position."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from pipeline.surveys.desi.keys import NAME, ids_of
from pipeline.surveys.desi.layouts import PRODUCTION
from pipeline.surveys.desi.sky import pixel_of, pixels_of_brick
from pipeline.surveys.survey import Search

PROGRAMS = (
    *(f"main-{program}" for program in ("dark", "bright", "backup")),
    *(f"sv3-{program}" for program in ("dark", "bright", "backup")),
    *(f"sv1-{program}" for program in ("dark", "bright", "backup", "other")),
    *(f"sv2-{program}" for program in ("dark", "bright", "backup")),
    *(f"special-{program}" for program in ("dark", "bright", "backup", "other")),
    "cmx-other",
)
"""Surveys and programs of DR1 and EDR, in the order in which a target is looked for: the deepest first."""

_FILE = re.compile(rf"redrock-({NAME}-{NAME}-[0-9]{{1,5}})\.fits\Z")


def candidates(targets: pd.DataFrame) -> list[list[str]]:
    """Return the keys that each target may have, in the order to try; none where nothing says where it is."""
    found = []
    for targetid, ra, dec in zip(targets["targetid"], targets["ra"], targets["dec"], strict=True):
        pixels = [pixel_of(ra, dec)] if ra == ra and dec == dec else pixels_of_brick(targetid)
        found.append([f"{program}-{pixel}-{targetid}" for program in PROGRAMS for pixel in pixels])
    return found


def keys_in(file: str, targets: pd.DataFrame) -> list[str]:
    """Return the keys that targets have if a redrock file holds them; none for another file."""
    named = _FILE.search(file)
    return [f"{named[1]}-{targetid}" for targetid in targets["targetid"]] if named else []


def named(targets: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Return targets with these keys, and what they say."""
    ids = [ids_of(key) for key in keys]
    columns = {name: [getattr(each, name) for each in ids] for name in ("survey", "program", "healpix")}
    return targets.assign(target=list(keys), **columns).astype(targets.dtypes)


SEARCH = Search(
    column="survey",
    missing="SURVEY, PROGRAM and HEALPIX",
    candidates=candidates,
    files=f"spectro/redux/{PRODUCTION}/healpix/*/*/*/*/redrock-*.fits",
    keys_in=keys_in,
    named=named,
)
"""How the coadds of targets are found."""
