"""How a model of a plan comes by redshifts, and what is stored of those that it finds; facts only."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.planning.schema import Variable

CATALOG, REFINE, BLIND = METHODS = ("catalog", "refine", "blind")
"""The catalog's; the best one near the catalog's; the best one of all that the model covers, without the catalog."""

WINDOW = 3000.0
"""How far from the catalog's redshift `refine` looks, km/s, where the plan says nothing."""

REDSHIFT_VERSION = 1
"""Raised when spender_core finds other redshifts, or fits other latents, for the same spectrum and checkpoint."""

KINDS = ("GALAXY", "QSO", "STAR")
"""Values of z_fit_class, from 0 on."""

WARNINGS = {
    2: ("LITTLE_COVERAGE", "few pixels carry weight"),
    4: ("SMALL_DELTA_CHI2", "another redshift fits almost as well"),
    32: ("Z_FITLIMIT", "the best fit is at the end of what was scanned"),
    512: ("NODATA", "there is no spectrum, no pixel with weight, or nothing to scan"),
    1024: ("BAD_MINFIT", "the minimum of chi2 is no parabola: the error is not known"),
}
"""Bits of z_fit_warning, with redrock's values (`spender_core.redshift.ZWarning`), and what they mean."""


def _scalar(long_name: str, dtype: str = "float32", fill: float = np.nan, **attributes: object) -> Variable:
    described = {"long_name": long_name, "units": "1", **attributes}
    return Variable(("spectrum",), dtype, fill, described, missing=dtype.startswith("float"))


REDSHIFT_VARIABLES: dict[str, Variable] = {
    "z_fit": _scalar(
        "redshift at which templates fit the spectrum best",
        "float64",
        ucd="src.redshift",
        ancillary_variables="z_fit_err z_fit_warning",
    ),
    "z_fit_err": _scalar("standard error of z_fit", ucd="stat.error;src.redshift"),
    "z_fit_chi2": _scalar("chi2 of the templates' best fit, at z_fit", ucd="stat.fit.chi2"),
    "z_fit_delta_chi2": _scalar(
        "chi2 at z_fit_second less that at z_fit",
        comment="NaN where there is no second minimum; 10 is added to chi2 of kinds of objects that the model is not "
        "of; below 0 where a redshift beyond the window that was asked for fits better",
    ),
    "z_fit_second": _scalar(
        "redshift of the best fit more than 1000 km/s away from z_fit", "float64", ucd="src.redshift"
    ),
    "z_fit_warning": _scalar(
        "what speaks against z_fit",
        "int32",
        512,
        flag_masks=np.array(list(WARNINGS), dtype=np.int32),
        flag_meanings=" ".join(name.lower() for name, _ in WARNINGS.values()),
        comment="0 for none; the values are those of redrock's ZWARN",
    ),
    "z_fit_class": _scalar(
        "kind of object whose templates fit best",
        "int8",
        -1,
        flag_values=np.arange(len(KINDS), dtype=np.int8),
        flag_meanings=" ".join(kind.lower() for kind in KINDS),
        comment="0 galaxy, 1 quasar, 2 star; -1 where there is no z_fit",
    ),
}
"""What is stored beside the outputs of a model that finds redshifts."""


def warning_counts(warning: Any) -> dict[str, int]:  # noqa: ANN401 - an array of whole numbers
    """Count spectra by the names of their warning bits; those that no spectrum has are left out."""
    found = {name: int(np.count_nonzero(np.asarray(warning) & bit)) for bit, (name, _) in WARNINGS.items()}
    return {name: count for name, count in found.items() if count}


def describe_warning(value: int) -> str:
    """Return the names of a warning's bits joined with "|"; "" for 0."""
    return "|".join(name for bit, (name, _) in WARNINGS.items() if int(value) & bit)
