"""Quality bits for analysts: counted, decoded, and the selection that is recommended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.spectra.quality import MEANINGS, Quality

if TYPE_CHECKING:
    from pipeline.results.tables.table import ResultsTable

NOT_GOOD = (
    Quality.UNUSABLE
    | Quality.OUT_OF_DOMAIN
    | Quality.NO_REDSHIFT
    | Quality.NO_NORM
    | Quality.NEGATIVE_NORM
    | Quality.FEW_PIXELS
    | Quality.NO_OVERLAP
    | Quality.NEGATIVE_AMPLITUDE
)
"""Bits that the recommended selection leaves out. FIBER_MASKED, TRUNCATED, BAD_PIXELS and OUT_OF_RANGE stay."""

MOST_CHI2_N = 6.0
"""Largest chi2 per pixel of the recommended selection. Set on mocks: benchmarks/good.py."""


def bits(quality: NDArray[np.uint32]) -> pd.DataFrame:
    """Return quality as a frame of truth: a row per spectrum, shape (N,), and a column per bit, by its name."""
    columns = {(bit.name or "").lower(): (quality & np.uint32(bit)) > 0 for bit in Quality}
    return pd.DataFrame(columns, index=pd.RangeIndex(len(quality), name="row"))


def counted(quality: dict[str, NDArray[np.uint32]], unusable: Quality) -> pd.DataFrame:
    """Return a row per bit: meaning, whether spectra with it have latents, and how many have it in each store.

    quality: by the name of the column, the bits of each store. The first row, "good", is spectra without any bit.
    """
    rows = [("good", "No remarks.", True), *(((b.name or "").lower(), MEANINGS[b], not b & unusable) for b in Quality)]
    table = pd.DataFrame(rows, columns=["bit", "meaning", "latents"]).set_index("bit")
    for name, values in quality.items():
        table[name] = [int((values == 0).sum()), *(int(((values & np.uint32(bit)) > 0).sum()) for bit in Quality)]
    return table


def good(table: ResultsTable) -> NDArray[np.bool_]:
    """Return the spectra of the recommended selection, shape (n_spectra,).

    table: of the model, with all rows. See `Run.good`.
    """
    known = {column.name for column in table.available}
    warning = "z_fit_warning" if "z_fit_warning" in known else "zwarning"  # of the redshift that the model took
    wanted = [name for name in ("quality", warning, "chi2_n") if name in known]
    found = np.zeros(table.plan.n_spectra, np.bool_)
    for start, stop in table.bounds:
        values = table.read(start, stop, wanted)
        kept = (values["quality"] & np.uint32(NOT_GOOD | table.plan.unusable)) == 0
        if warning in values:
            kept &= values[warning] == 0
        if "chi2_n" in values:
            kept &= values["chi2_n"] <= MOST_CHI2_N  # NaN is not good
        found[start:stop] = kept
    return found
