"""DESI as a survey: coadds by healpix pixel of EDR and DR1."""

from __future__ import annotations

from pipeline.surveys.desi.catalog import candidates, choose, compose_keys, to_rows
from pipeline.surveys.desi.columns import COORDINATES
from pipeline.surveys.desi.keys import is_key
from pipeline.surveys.desi.layouts import LAYOUTS
from pipeline.surveys.desi.lookup import LOOKUP
from pipeline.surveys.desi.search import SEARCH
from pipeline.surveys.survey import CatalogColumns, Provenance, Survey
from pipeline.surveys.values import read_text

_CLEAN = "ZWARN == 0 and COADD_FIBERSTATUS == 0"
_BGS_ANY, _LRG = 2**60, 2**0  # desi_mask of the main survey (desitarget's targetmask.yaml)

SELECTIONS = {
    "clean": _CLEAN,
    "galaxies": f"{_CLEAN} and SPECTYPE == 'GALAXY'",
    "stars": f"{_CLEAN} and SPECTYPE == 'STAR'",
    "qso": f"{_CLEAN} and SPECTYPE == 'QSO'",
    "bgs": f"{_CLEAN} and SPECTYPE == 'GALAXY' and (DESI_TARGET & {_BGS_ANY}) != 0 and DELTACHI2 > 40 "
    "and ZERR < 0.0005 * (1 + Z)",
    "lrg": f"{_CLEAN} and SPECTYPE == 'GALAXY' and (DESI_TARGET & {_LRG}) != 0 and DELTACHI2 > 15",
}
"""Ready-made selections over the columns of zall-pix and of redrock files, by name.

clean: without a warning of redrock and without a flag of the fiber. galaxies, stars, qso: of these, by redrock's class.
bgs, lrg: galaxies of the main survey that were targets of its bright galaxy survey, or its luminous red galaxies, with
the cuts of upstream's `DESI.prepare_spectra` (DESI 2023, arXiv:2306.06307) but for its limit z < 0.8; the target's own
bits are tested, where upstream tests the constant.
"""

DESI = Survey(
    name="desi",
    instruments={"desi": 7781},
    coordinates=COORDINATES,
    layouts=LAYOUTS,
    catalog=CatalogColumns(
        candidates,
        choose,
        to_rows,
        sort_by=("survey", "program", "healpix", "targetid"),
        keys=compose_keys,
        texts={"survey": read_text, "program": read_text, "class": read_text},
        stands_for={"target": ("targetid", "survey", "program", "healpix")},
        settled=("z", "survey", "program", "healpix"),
        is_key=is_key,
        keywords=("SURVEY", "PROGRAM", "HPXPIXEL"),
        beside={"REDSHIFTS": ("FIBERMAP",)},
    ),
    lookup=LOOKUP,
    provenance=Provenance(
        title="DESI",
        license="CC BY 4.0; acknowledge DESI (data.desi.lbl.gov/doc/acknowledgments)",
        acknowledgement="This research used data obtained with the Dark Energy Spectroscopic Instrument (DESI). DESI "
        "construction and operations is managed by the Lawrence Berkeley National Laboratory. This material is based "
        "upon work supported by the U.S. Department of Energy, Office of Science, Office of High-Energy Physics.",
    ),
    root="a release root, the folder that holds spectro/, such as .../dr1",
    archive="s3://desidata/dr1",
    public=("s3://desidata",),
    path_columns=("survey", "program"),
    search=SEARCH,
    selections=SELECTIONS,
)
