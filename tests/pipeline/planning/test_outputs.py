"""An output is one entry of one table: nothing else knows what outputs there are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline.cli.main import main
from pipeline.planning.schema import OUTPUTS, Output
from tests.running import random_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture
def line_flux(monkeypatch: pytest.MonkeyPatch) -> str:
    """Add an output: the restframe flux at H alpha."""
    entry = Output(
        dims=("spectrum",),
        dtype="float32",
        fill=np.nan,
        attributes={"long_name": "restframe model at H alpha", "units": "1"},
        compute=lambda decoded: decoded.restframe[:, 500],
        by_default=False,
    )
    monkeypatch.setitem(OUTPUTS, "line_flux", entry)
    return "line_flux"


def test_an_output_is_one_entry(line_flux: str, mirror: Path, catalog: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    targets = pipeline.select_targets(catalog, where="PLATE == 266 and FIBERID < 170")
    model = random_checkpoint(tmp_path)
    by_default = pipeline.plan(tmp_path / "other", targets=targets, source=mirror, models=[model]).models[0]
    assert line_flux not in by_default.variables
    pipeline.plan(root, targets=targets, source=mirror, models=[model], variables=["restframe", line_flux, "latents"])
    pipeline.run(root, serial=True, progress=False)
    assert pipeline.verify(root).problems == ()
    encodings = pipeline.open_run(root).encodings()
    assert {name for name in encodings.data_vars if name in OUTPUTS} == {"latents", "restframe", line_flux}
    np.testing.assert_array_equal(encodings[line_flux], encodings["restframe"][:, 500])
    assert encodings[line_flux].attrs["long_name"] == "restframe model at H alpha"


def test_an_output_that_is_not_in_the_table_is_refused(
    mirror: Path, catalog: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["targets", str(catalog), "--output", str(tmp_path / "t.parquet")]) == 0
    options = ["--targets", str(tmp_path / "t.parquet"), "--source", str(mirror), "--model", "sdss-demo"]
    assert main(["plan", str(tmp_path / "run"), *options, "--variables", "latents,line_flux"]) == 1
    assert f"expected one of {', '.join(OUTPUTS)}" in capsys.readouterr().err


def test_an_output_may_have_a_dimension_of_its_own(
    monkeypatch: pytest.MonkeyPatch, mirror: Path, catalog: Path, tmp_path: Path
) -> None:
    entry = Output(
        dims=("spectrum", "line"),
        dtype="float32",
        fill=np.nan,
        sizes={"line": 2},
        compute=lambda decoded: decoded.restframe[:, 500:502],
    )
    monkeypatch.setitem(OUTPUTS, "lines", entry)
    targets = pipeline.select_targets(catalog, where="PLATE == 266 and FIBERID < 170")
    pipeline.plan(tmp_path / "run", targets=targets, source=mirror, models=random_checkpoint(tmp_path))
    pipeline.run(tmp_path / "run", serial=True, progress=False)
    assert pipeline.verify(tmp_path / "run").problems == ()
    encodings = pipeline.open_run(tmp_path / "run").encodings()
    np.testing.assert_array_equal(encodings["lines"], encodings["restframe"][:, 500:502])
