"""Catalogs that LSDB opens and crossmatches."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from distributed import Client

import pipeline
from tests.pipeline.conftest import MakeRun

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path: Path, make_run: MakeRun) -> pipeline.Run:
    make_run(tmp_path / "run")
    return pipeline.open_run(tmp_path / "run")


def test_lsdb_opens_and_crossmatches_it(run: pipeline.Run, tmp_path: Path, threads: Client) -> None:
    pytest.importorskip("hats_import", reason="the extra `analysis` is not installed")
    import dask

    with warnings.catch_warnings(), threads.as_current():
        warnings.simplefilter("ignore")  # of theirs
        import lsdb

        assert pipeline.export(run.root, tmp_path / "x.hats").rows == 18
        catalog = lsdb.open_catalog(tmp_path / "x.hats")
        properties = (tmp_path / "x.hats" / "hats.properties").read_text()
        found = catalog.compute().sort_values("row" if "row" in catalog.columns else "fiberid")
        table = run.table()
        other = pd.DataFrame({"ra": table["ra"] + 0.5 / 3600, "dec": table["dec"], "mass": np.arange(18.0)})
        second = lsdb.from_dataframe(other, ra_column="ra", dec_column="dec", margin_threshold=5)
        pairs = catalog.crossmatch(second, radius_arcsec=1, n_neighbors=1, suffixes=("", "_other")).compute()
    assert dask is not None
    assert f"spender_model_sha256={'ab' * 32}" in properties.replace(" ", "")
    for name in ("specobjid", "l0", "chi2", "ra", "quality"):
        np.testing.assert_array_equal(found[name].to_numpy(), table[name].to_numpy())
    assert len(pairs) == 18
    assert sorted(pairs["mass_other" if "mass_other" in pairs else "mass"]) == list(range(18))


def test_what_cannot_be_a_catalog_is_refused(run: pipeline.Run, tmp_path: Path) -> None:
    pytest.importorskip("hats_import", reason="the extra `analysis` is not installed")
    with pytest.raises(pipeline.ConfigError, match="the table has no column ra; a HATS catalog needs"):
        pipeline.export(run.root, tmp_path / "x.hats", columns="target,l0")
    with pytest.raises(pipeline.ConfigError, match="a folder on a disk"):
        pipeline.export(run.root, "memory://x.hats")
    with pytest.raises(pipeline.ConfigError, match="no row is chosen"):
        pipeline.export(run.root, tmp_path / "x.hats", where="z > 9")
    (tmp_path / "y.hats").mkdir()
    with pytest.raises(pipeline.ConfigError, match="a folder that is not there; remove it"):
        pipeline.export(run.root, tmp_path / "y.hats")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run", "y.hats"]
