"""SDSS as a survey: SDSS-I/II, BOSS, eBOSS and SDSS-V spectra of the optical spectrographs."""

from __future__ import annotations

from pipeline.surveys.sdss.catalog import FURTHER, TEXTS, candidates, choose, compose_keys, to_rows
from pipeline.surveys.sdss.columns import COORDINATES
from pipeline.surveys.sdss.keys import is_key
from pipeline.surveys.sdss.layouts import LAYOUTS
from pipeline.surveys.sdss.lookup import LOOKUP
from pipeline.surveys.sdss.reductions import named, reduced, reductions_of
from pipeline.surveys.survey import CatalogColumns, Provenance, Reductions, Survey

SELECTIONS = {
    "main-galaxies": "SURVEY == 'sdss' and PLATEQUALITY == 'good' and TARGETTYPE == 'SCIENCE' "
    "and SOURCETYPE == 'GALAXY' and CLASS == 'GALAXY' and Z > 0 and Z_ERR < 1e-4",
    "all-galaxies": "CLASS == 'GALAXY'",
    "clean": "SPECPRIMARY == 1 and ZWARNING == 0",
    "sdss-v-galaxies": "FIELDQUALITY == 'good' and SPECPRIMARY == 1 and CLASS == 'GALAXY' and ZWARNING == 0",
}
"""Ready-made selections over specObj's columns, and spAll's, by name.

main-galaxies: the sample of paper I (arXiv:2211.07890), as upstream's `SDSS.query` cuts it. all-galaxies: every
spectrum that the SDSS pipeline classified so, whatever its target was. clean: one spectrum per position (the best
within 2 arcsec), without any redshift warning; of spAll, too. sdss-v-galaxies: galaxies of spAll and spAll-lite
(DR18 to DR20) in fields of good quality, each once, without any redshift warning.
"""

SDSS = Survey(
    name="sdss",
    instruments={"sdss": 3921, "boss": 4686},
    coordinates=COORDINATES,
    layouts=LAYOUTS,
    catalog=CatalogColumns(
        candidates,
        choose,
        to_rows,
        sort_by=("run2d", "plate", "mjd", "fiber_or_catalogid"),
        keys=compose_keys,
        texts=TEXTS,
        further=FURTHER,
        stands_for={"specobjid": ("plate", "mjd", "fiberid"), "target": ("plate", "mjd", "fiberid")},
        settled=("run2d", "z"),
        is_key=is_key,
    ),
    lookup=LOOKUP,
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
    reductions=Reductions("run2d", ("plate", "mjd"), "plate", reductions_of, reduced, named),
    selections=SELECTIONS,
)
