"""Ready-made selections over specObj's columns."""

from __future__ import annotations

SELECTIONS = {
    "main-galaxies": "SURVEY == 'sdss' and PLATEQUALITY == 'good' and TARGETTYPE == 'SCIENCE' "
    "and SOURCETYPE == 'GALAXY' and CLASS == 'GALAXY' and Z > 0 and Z_ERR < 1e-4",
    "all-galaxies": "CLASS == 'GALAXY'",
    "clean": "SPECPRIMARY == 1 and ZWARNING == 0",
}
"""Ready-made selections over specObj's columns, by name.

main-galaxies: the sample of paper I (arXiv:2211.07890), as upstream's `SDSS.query` cuts it. all-galaxies: every
spectrum that the SDSS pipeline classified so, whatever its target was. clean: one spectrum per position (the best
within 2 arcsec), without any redshift warning.
"""
