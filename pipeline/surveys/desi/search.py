"""In which coadds a target may be of which only the TARGETID is known, and perhaps its position."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from pipeline.surveys.desi.keys import NAME, ids_of
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

UNKNOWN: dict[str, str | int] = {"survey": "", "program": "", "healpix": -1}
"""Where a target is, and what stands there where a catalog does not say it."""

_FILE = re.compile(rf"redrock-({NAME})-({NAME})-([0-9]{{1,5}})\.fits\Z")


def candidates(targets: pd.DataFrame) -> list[list[str]]:
    """Return the keys that each target may have, in the order to try; none where nothing says where it is."""
    found = []
    names = ("targetid", "ra", "dec", *UNKNOWN)
    for targetid, ra, dec, survey, program, pixel in zip(*(targets[name] for name in names), strict=True):
        if pixel >= 0:
            pixels = [pixel]
        else:
            pixels = [pixel_of(ra, dec)] if ra == ra and dec == dec else pixels_of_brick(targetid)
        found.append([f"{each}-{place}-{targetid}" for each in _programs(survey, program) for place in pixels])
    return found


def _programs(survey: str, program: str) -> list[str]:
    """Return the surveys and programs that a target may be in; one of both may be said, or both."""
    if survey and program:
        return [f"{survey}-{program}"]
    known = (each.split("-") for each in PROGRAMS)
    return ["-".join(each) for each in known if survey in ("", each[0]) and program in ("", each[1])]


def order(files: list[str]) -> list[str]:
    """Return files in the order in which a target is looked for: the deepest first."""

    def place(file: str) -> int:
        named = _FILE.search(file)
        program = f"{named[1]}-{named[2]}" if named else ""
        return PROGRAMS.index(program) if program in PROGRAMS else len(PROGRAMS)

    return sorted(files, key=lambda file: (place(file), file))


def keys_in(file: str, targets: pd.DataFrame) -> dict[int, str]:
    """Return the keys that targets have if a redrock file holds them, of those that may be in it."""
    named = _FILE.search(file)
    if named is None:
        return {}
    survey, program, pixel = named[1], named[2], int(named[3])
    said = zip(UNKNOWN.items(), (survey, program, pixel), strict=True)
    may_be = np.logical_and.reduce([targets[name].isin([unknown, own]) for (name, unknown), own in said])
    ids = targets["targetid"].tolist()
    return {place: f"{survey}-{program}-{pixel}-{ids[place]}" for place in np.flatnonzero(may_be).tolist()}


def named(targets: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Return targets with these keys, and what they say."""
    ids = [ids_of(key) for key in keys]
    columns = {name: [getattr(each, name) for each in ids] for name in UNKNOWN}
    return targets.assign(target=list(keys), **columns).astype(targets.dtypes)


SEARCH = Search(
    unknown=UNKNOWN,
    missing="SURVEY, PROGRAM and HEALPIX",
    candidates=candidates,
    files="spectro/redux/*/healpix/*/*/*/*/redrock-*.fits",
    order=order,
    keys_in=keys_in,
    named=named,
)
"""How the coadds of targets are found."""
