"""What every DESI spectrum is labelled with, and the names that catalogs use for it.

Sources: the DESI data model's pages of zall-pix, zpix and redrock files; redrock's zwarning.py for the bits of ZWARN.
"""

from __future__ import annotations

import numpy as np

from pipeline.surveys.columns import Coordinate
from pipeline.surveys.desi.keys import KEY, NAME

ZWARN = (
    "sky little_coverage small_delta_chi2 negative_model many_outliers z_fitlimit negative_emission unplugged "
    "bad_target nodata bad_minfit poordata"
)
"""redrock's warnings, from bit 0 on: those of SDSS's zwarning, and three of its own."""

COORDINATES: dict[str, Coordinate] = {
    "target": Coordinate(
        "str",
        {"long_name": "key of the spectrum, survey-program-healpix-targetid", "ucd": "meta.id;meta.main"},
        aliases=("target", "key"),
        pattern=KEY,
        example="a key such as main-dark-27247-39628473198710603",
    ),
    "targetid": Coordinate(
        "int64",
        {"long_name": "DESI target id", "ucd": "meta.id"},
        aliases=("targetid", "target_id"),
        required=True,
    ),
    "survey": Coordinate(
        "str",
        {"long_name": "survey of the observation: main, sv1, sv2, sv3, special or cmx", "ucd": "meta.id.part"},
        aliases=("survey",),
        required=True,
        pattern=NAME,
        example="the name of a survey, such as main or sv3",
    ),
    "program": Coordinate(
        "str",
        {"long_name": "program of the observation: dark, bright, backup or other", "ucd": "meta.id.part"},
        aliases=("program", "faprgrm"),
        required=True,
        pattern=NAME,
        example="the name of a program, such as dark or bright",
    ),
    "healpix": Coordinate(
        "int32",
        {"long_name": "healpix pixel of the target: nside 64, nested", "ucd": "pos.healpix"},
        aliases=("healpix", "hpxpixel"),
        required=True,
    ),
    "ra": Coordinate(
        "float64",
        {"long_name": "right ascension (ICRS)", "units": "degree", "ucd": "pos.eq.ra;meta.main"},
        aliases=("target_ra", "mean_fiber_ra", "ra"),
    ),
    "dec": Coordinate(
        "float64",
        {"long_name": "declination (ICRS)", "units": "degree", "ucd": "pos.eq.dec;meta.main"},
        aliases=("target_dec", "mean_fiber_dec", "dec"),
    ),
    "z": Coordinate(
        "float32",
        {"long_name": "heliocentric redshift", "units": "1", "ucd": "src.redshift"},
        aliases=("z", "redshift"),
        required=True,
    ),
    "z_err": Coordinate(
        "float32",
        {"long_name": "redshift error", "units": "1", "ucd": "stat.error;src.redshift"},
        aliases=("zerr", "z_err"),
    ),
    "zwarning": Coordinate(
        "int32",
        {
            "long_name": "warning bits of the redshift fit",
            "units": "1",
            "flag_masks": np.array([1 << bit for bit in range(12)], dtype=np.int32),
            "flag_meanings": ZWARN,
        },
        aliases=("zwarn", "zwarning"),
    ),
    "class": Coordinate(
        "str",
        {"long_name": "spectroscopic class: GALAXY, QSO or STAR", "ucd": "src.class"},
        aliases=("spectype", "class"),
    ),
    "delta_chi2": Coordinate(
        "float32",
        {"long_name": "chi2 of the second best redshift fit minus that of the best", "units": "1", "ucd": "stat.fit"},
        aliases=("deltachi2", "delta_chi2"),
    ),
}
