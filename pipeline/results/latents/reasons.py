"""Why a spectrum is odd: the line nearest to its worst run, and all of it in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.planning.schema import REGIONS
from pipeline.results.figures.lines import NAMED
from pipeline.results.latents.found import made
from pipeline.results.tables.columns import Column

LIGHT = 299_792.458
"""Speed of light, km/s."""

NEAR = 1500.0
"""How far the middle of a run may be from a line that it is named after, km/s: half of a run of 20 pixels is 690."""

NOTED_SIGNIFICANCE, NOTED_CHI2 = 5.0, 2.0
"""From which significance of a run, and chi2 per pixel of a region, on they are told as reasons."""

REST = made("run_rest", "middle of the worst run of 20 pixels, restframe wavelength", units="Angstrom")
LINE = made("line", "spectral line nearest to the worst run", "str", "")
OFFSET = made("line_offset", "velocity of the worst run less that of the line", units="km/s")
REASON = made("reason", "why the spectrum is odd, in words", "str", "")

Values = Mapping[str, NDArray[Any]]


def lines_near(wavelength: NDArray[np.floating[Any]]) -> tuple[NDArray[np.object_], NDArray[np.float32]]:
    """Return the names of the lines nearest to restframe wavelengths, Angstrom, and how far these are off, km/s.

    All shape (N,); "" and NaN where there is no wavelength.
    """
    names = np.array([name for name, _ in NAMED], dtype=object)
    places = np.array([place for _, place in NAMED])
    offset = LIGHT * (np.asarray(wavelength, np.float64)[:, None] / places - 1)
    which = np.argmin(np.where(np.isnan(offset), np.inf, np.abs(offset)), axis=1)
    there = np.isfinite(wavelength)
    nearest = np.take_along_axis(offset, which[:, None], axis=1)[:, 0]
    return np.where(there, names[which], ""), np.where(there, nearest, np.nan).astype(np.float32)


def run_columns(values: Values) -> tuple[list[Column], dict[str, NDArray[Any]]]:
    """Return what is made of the worst runs: their restframe wavelengths and the nearest lines."""
    z = values["z_fit" if "z_fit" in values else "z"].astype(np.float64)  # that of the model
    rest = values["run_wavelength"] / (1 + z)
    names, offsets = lines_near(rest)
    return [REST, LINE, OFFSET], {REST.name: rest.astype(np.float32), LINE.name: names, OFFSET.name: offsets}


def in_words(values: Values, i: int) -> str:
    """Return why spectrum i is odd, of what there is of it, in words."""
    parts = [_log_prob(values, i), _distance(values, i), _run(values, i), _region(values, i), _quality(values, i)]
    return "; ".join(part for part in parts if part)


def _log_prob(values: Values, i: int) -> str:
    if "log_prob" not in values or not np.isfinite(values["log_prob"][i]):
        return ""
    text = f"log p {values['log_prob'][i]:.1f}"
    if "log_prob_percentile" in values:
        text += f" (percentile {values['log_prob_percentile'][i]:.2g})"
    return text


def _distance(values: Values, i: int) -> str:
    if "distance" not in values or not np.isfinite(values["distance"][i]):
        return ""
    text = f"latents {values['distance'][i]:.1f} sigma from the mean"
    if "neighbor_distance" in values and np.isfinite(values["neighbor_distance"][i]):
        text += f", {values['neighbor_distance'][i]:.1f} from the nearest"
    return text


def _run(values: Values, i: int) -> str:
    if "run_significance" not in values or not abs(values["run_significance"][i]) >= NOTED_SIGNIFICANCE:
        return ""
    rest, offset = values["run_rest"][i], values["line_offset"][i]
    name = f", {values['line'][i]}" if abs(offset) <= NEAR else ""
    at = f" (restframe {rest:.0f}{name})" if np.isfinite(rest) else ""
    return f"20 pixels {values['run_significance'][i]:+.1f} sigma at {values['run_wavelength'][i]:.0f} A{at}"


def _region(values: Values, i: int) -> str:
    names = [f"region_chi2_{low:.0f}" for low in REGIONS]
    if not set(names) <= set(values):
        return ""
    chi2 = np.array([values[name][i] for name in names])
    if not (chi2 >= NOTED_CHI2).any():
        return ""
    worst = int(np.nanargmax(chi2))
    low, high = REGIONS[worst], (*REGIONS, None)[worst + 1]
    where = f"above {low:.0f}" if high is None else f"below {high:.0f}" if low == 0 else f"at {low:.0f} to {high:.0f}"
    return f"chi2 per pixel {chi2[worst]:.1f} {where} A"


def _quality(values: Values, i: int) -> str:
    words = str(values["quality_words"][i])
    return "" if words == "GOOD" else words.replace("_", " ").replace("|", ", ").lower()
