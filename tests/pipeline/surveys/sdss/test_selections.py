from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from pipeline.catalog.targets import read_targets
from pipeline.catalog.where import select
from pipeline.surveys.sdss.survey import SELECTIONS
from tests.catalogs import sdss_v


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


@pytest.mark.parametrize("name", sorted(SELECTIONS.keys() - {"sdss-v-galaxies"}))
def test_every_ready_made_selection_chooses_some_of_the_real_catalog(catalog: Path, name: str):
    with fits.open(catalog) as hdus:
        columns = {column: np.array(hdus[1].data[column]) for column in hdus[1].data.names if column != "THETA"}
    assert 0 < select(SELECTIONS[name], columns).sum() < len(columns["Z"])


def test_the_galaxies_of_sdss_v_are_good_ones_and_each_is_there_once(tmp_path: Path):
    rows = sdss_v(
        FIELDQUALITY=["good    ", "good", "bad"],
        SPECPRIMARY=np.array([1, 0, 1], np.int16),
        CLASS=["GALAXY", "GALAXY", "GALAXY"],
        ZWARNING=[0, 0, 0],
    )
    file = tmp_path / "spAll-lite-v6_2_1.fits"
    Table(rows).write(file)
    assert read_targets(str(file), where=SELECTIONS["sdss-v-galaxies"])["target"].tolist() == [
        "v6_1_3/101077-60000-63050394784953920"
    ]
