from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from pipeline.catalog.where import select
from pipeline.surveys.sdss.survey import SELECTIONS


def test_the_main_galaxies_are_those_that_upstream_selects(catalog: Path):
    with fits.open(catalog) as hdus:
        rows = hdus[1].data
        padded = {name: np.char.strip(rows[name]) for name in ("SURVEY", "PLATEQUALITY", "TARGETTYPE", "SOURCETYPE")}
        expected = (
            (padded["SURVEY"] == "sdss")
            & (padded["PLATEQUALITY"] == "good")
            & (padded["TARGETTYPE"] == "SCIENCE")
            & (rows["Z"] > 0.0)
            & (rows["Z_ERR"] < 1e-4)
            & (padded["SOURCETYPE"] == "GALAXY")
            & (np.char.strip(rows["CLASS"]) == "GALAXY")
        )
        columns = {name: np.array(rows[name]) for name in rows.names if name != "THETA"}
    found = select(SELECTIONS["main-galaxies"], columns)
    np.testing.assert_array_equal(found, expected)
    assert 0 < found.sum() < len(found)


@pytest.mark.parametrize("name", sorted(SELECTIONS))
def test_every_ready_made_selection_chooses_some_of_the_real_catalog(catalog: Path, name: str):
    with fits.open(catalog) as hdus:
        columns = {column: np.array(hdus[1].data[column]) for column in hdus[1].data.names if column != "THETA"}
    assert 0 < select(SELECTIONS[name], columns).sum() < len(columns["Z"])
