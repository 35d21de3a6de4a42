"""SDSS as a survey: SDSS-I/II, BOSS, eBOSS and SDSS-V spectra of the optical spectrographs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from pipeline.surveys.sdss.catalog import choose_columns, compose_keys, remarks, to_table
from pipeline.surveys.sdss.columns import COORDINATES
from pipeline.surveys.sdss.keys import ids_of, require_run2d
from pipeline.surveys.sdss.layouts import LAYOUTS, spec_path
from pipeline.surveys.sdss.selections import SELECTIONS
from pipeline.surveys.survey import CatalogColumns, Lookup, Provenance, Survey

REDUCTIONS = ("26", "103", "104", "v5_13_2")
"""Reductions that DR17 serves; each plate is in one of them."""

_PLATE_MJD_FIBER = re.compile(r"(\d{1,10})-(\d{1,10})-(\d{1,19})\Z")


def _columns_of(text: str) -> Mapping[str, int] | None:
    numbers = _PLATE_MJD_FIBER.match(text)
    return None if numbers is None else dict(zip(("plate", "mjd", "fiberid"), map(int, numbers.groups()), strict=True))


def _numbers_of(entry: Sequence[int | str]) -> tuple[int, ...]:
    if len(entry) not in (3, 4):
        raise ValueError(f"ids are (plate, mjd, fiberid) or (plate, mjd, fiberid, run2d), not {entry!r}")
    return tuple(int(value) for value in entry[:3])


def _keys_of(entry: Sequence[int | str], present: Sequence[str]) -> list[str]:
    """Name the keys that a spectrum may have: of its reduction, else of the release's, then of the folder's own."""
    plate, mjd, fiberid = _numbers_of(entry)
    if len(entry) == 4:
        require_run2d(str(entry[3]))
    reductions = [str(entry[3])] if len(entry) == 4 else dict.fromkeys([*REDUCTIONS, *present])
    return [f"{run2d}/{plate}-{mjd}-{fiberid}" for run2d in reductions]


def _places(key: str) -> Iterator[str]:
    """Name the places where a folder of the user's own may have the file: by plate, as upstream has it, and flat."""
    name = spec_path(ids_of(key)).rsplit("/", 1)[-1]
    yield f"{ids_of(key).plate:04d}/{name}"
    yield name


SDSS = Survey(
    name="sdss",
    instruments={"sdss": 3921, "boss": 4686},
    coordinates=COORDINATES,
    layouts=LAYOUTS,
    catalog=CatalogColumns(
        choose_columns, to_table, ("run2d", "plate", "mjd", "fiber_or_catalogid"), compose_keys, remarks
    ),
    lookup=Lookup(
        names="PLATE-MJD-FIBER, RUN2D/PLATE-MJD-FIBER or specobjid",
        columns_of=_columns_of,
        id_column="specobjid",
        keys_of=_keys_of,
        numbers_of=_numbers_of,
        reduction_folders=("sdss/spectro/redux", "eboss/spectro/redux"),
        places=_places,
    ),
    provenance=Provenance(
        title="SDSS",
        license="SDSS public data releases are in the public domain; "
        "acknowledge SDSS (sdss.org/collaboration/citing-sdss)",
        acknowledgement="Funding for the Sloan Digital Sky Survey has been provided by the Alfred P. Sloan Foundation, "
        "the U.S. Department of Energy Office of Science, and the Participating Institutions. SDSS acknowledges "
        "support and resources from the Center for High-Performance Computing at the University of Utah. www.sdss.org",
    ),
    root="a release root, the folder that holds sdss/ and eboss/ (SDSS-V: spectro/)",
    archive="https://data.sdss.org/sas/dr17",
    path_columns=("run2d",),
    selections=SELECTIONS,
)
