"""What every SDSS spectrum is labelled with, and the names that catalogs use for it.

Sources: the SDSS datamodel's pages of specObj and spAll (BOSS, eBOSS and SDSS-V), of the value-added catalogs of
MPA-JHU (PLATEID, Z_WARNING, SPECTROTYPE), Portsmouth and DR16Q (ZWARN_PIPE); SkyServer's schema of SpecObjAll and spAll
(zErr, snMedian), and what CasJobs, astroquery, Kaggle (redshift) and VizieR (Plate, Fiber, zsp) make of it.
"""

from __future__ import annotations

import numpy as np

from pipeline.surveys.columns import Coordinate
from pipeline.surveys.sdss.keys import KEY, RUN2D

_ZWARNING_MEANINGS = (
    "sky little_coverage small_delta_chi2 negative_model many_outliers z_fitlimit negative_emission "
    "unplugged bad_target"
)

COORDINATES: dict[str, Coordinate] = {
    "target": Coordinate(
        "str",
        {"long_name": "key of the spectrum, run2d/plate-mjd-fiberid", "ucd": "meta.id;meta.main"},
        aliases=(
            "target",
            "key",
            "spec_id",
            "sp-id",
            "specname",
            "plate_mjd_fiber",
            "plate-mjd-fiber",
            "plate-mjd-fiberid",
        ),
        pattern=KEY,
        example="a key such as 26/266-51602-1",
    ),
    "specobjid": Coordinate(
        "uint64",
        {"long_name": "SDSS spectroscopic object id", "ucd": "meta.id", "comment": "0 where there is none"},
        aliases=("specobjid", "spobjid", "spec_obj_id", "specobj_id"),
    ),
    "plate": Coordinate(
        "int32",
        {"long_name": "plate number", "ucd": "meta.id;instr.plate"},
        aliases=("plate", "plateid", "field"),
        required=True,
    ),
    "mjd": Coordinate(
        "int32",
        {"long_name": "modified Julian date of the last observation", "units": "d", "ucd": "time.epoch"},
        aliases=("mjd",),
        required=True,
    ),
    "fiberid": Coordinate(
        "int32",
        {"long_name": "fiber number, from 1", "ucd": "meta.id"},
        aliases=("fiberid", "fiber", "fiber_id"),
        required=True,
    ),
    "run2d": Coordinate(
        "str",
        {"long_name": "version of the two-dimensional reduction", "ucd": "meta.version"},
        aliases=("run2d",),
        required=True,
        pattern=RUN2D,
        example="the name of a reduction, such as 26 or v5_13_2",
    ),
    "ra": Coordinate(
        "float64",
        {"long_name": "right ascension (J2000)", "units": "degree", "ucd": "pos.eq.ra;meta.main"},
        aliases=("plug_ra", "fiber_ra", "racat", "ra", "raj2000", "ra_icrs", "alpha"),
    ),
    "dec": Coordinate(
        "float64",
        {"long_name": "declination (J2000)", "units": "degree", "ucd": "pos.eq.dec;meta.main"},
        aliases=("plug_dec", "fiber_dec", "deccat", "dec", "dej2000", "de_icrs", "delta"),
    ),
    "z": Coordinate(
        "float32",
        {"long_name": "heliocentric redshift", "units": "1", "ucd": "src.redshift"},
        aliases=("z", "redshift", "zspec", "z_spec", "z_best", "zbest", "zsp", "z_vi", "z_pipe"),
        required=True,
    ),
    "z_err": Coordinate(
        "float32",
        {"long_name": "redshift error", "units": "1", "ucd": "stat.error;src.redshift"},
        aliases=("z_err", "zerr", "e_z", "e_zsp"),
    ),
    "zwarning": Coordinate(
        "int32",
        {
            "long_name": "warning bits of the redshift fit",
            "units": "1",
            "flag_masks": np.array([1 << bit for bit in range(9)], dtype=np.int32),
            "flag_meanings": _ZWARNING_MEANINGS,
        },
        aliases=("zwarning", "zwarn", "z_warning", "zwarn_pipe"),
    ),
    "class": Coordinate(
        "str",
        {"long_name": "spectroscopic class: GALAXY, QSO or STAR", "ucd": "src.class"},
        aliases=("spcl", "class", "spectrotype", "spclass", "autoclass_pqn"),
    ),
    "sn_median": Coordinate(
        "float32",
        {"long_name": "median signal-to-noise ratio per pixel", "units": "1", "ucd": "stat.snr;stat.median"},
        aliases=("sn_median_all", "sn_median", "snmedian"),
    ),
}
