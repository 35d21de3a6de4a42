"""What is stored of how common the latents of a model are; facts only."""

from __future__ import annotations

import numpy as np

from pipeline.planning.schema import ENCODING_QUALITY, Variable

DENSITY_VERSION = 1
"""Raised when compute/stages/density.py or spender_core give other numbers for the same latents and density."""

SN = "sn_median"
"""The coordinate that says which spectra are of like S/N, where the survey has it."""

LATENTS, COVARIANCE = "latents", "latents_cov"
"""Outputs of a model that a density is taken of."""


def _score(long_name: str, units: str, comment: str) -> Variable:
    attributes = {"long_name": long_name, "units": units, "comment": comment, "ancillary_variables": "quality"}
    return Variable(("spectrum",), "float32", np.nan, attributes)


_VARIABLES = {
    "log_prob": _score(
        "natural logarithm of the density of the latents in the sample that the density was trained on",
        "1",
        "low for rare spectra; only values of one density can be compared",
    ),
    "log_prob_percentile": _score(
        "percentage of the sample's held-out spectra that have a lower log_prob",
        "percent",
        "0: rarer than all of them; NaN where the density does not say how its sample is distributed",
    ),
    "log_prob_percentile_sn": _score(
        "percentage of the sample's held-out spectra of like S/N that have a lower log_prob",
        "percent",
        "S/N is sn_median, in bins; NaN where it is not known",
    ),
    "log_prob_noise": _score(
        "natural logarithm of the mean density over the uncertainty of the latents",
        "1",
        "averaged over latents_cov about latents: far above log_prob where noise alone makes a spectrum rare",
    ),
}


def density_variables(*, with_covariance: bool) -> dict[str, Variable]:
    """Return the variables of a density's store. with_covariance: whether the covariance of latents is known."""
    of_noise = () if with_covariance else ("log_prob_noise",)
    scores = {name: each for name, each in _VARIABLES.items() if name not in of_noise}
    return {**scores, "quality": ENCODING_QUALITY}


SCORES = tuple(_VARIABLES)
"""Names of what a density adds."""
