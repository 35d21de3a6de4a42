"""What a newcomer sees first."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from pipeline import open_run
from pipeline.cli import demo as demo_module
from pipeline.cli.run import open_statements
from pipeline.compute.choice import DEFAULT_MODEL

pytestmark = pytest.mark.slow

Demo = tuple[Path, str]


def last_lines(printed: str) -> dict[str, str]:
    """What the demo leaves to look at, by the word that each of its last lines begins with."""
    return dict(re.findall(r"^(\w+) +(.+)$", printed.rpartition("\n\n")[2], re.MULTILINE))


def test_its_model_is_the_default_of_new_plans() -> None:
    assert demo_module.MODEL == DEFAULT_MODEL


def test_it_ends_with_a_table_a_plot_and_the_line_that_opens_the_result(demo: Demo) -> None:
    folder, printed = demo
    plot, line = (last_lines(printed)[name] for name in ("plot", "open"))
    assert (folder.parent / plot).stat().st_size > 50_000
    assert line == f"import xarray as xr; {open_statements('demo/encodings/sdss-galaxies.zarr', 2)}"
    assert re.search(r"^spectra +32, 32 with latents$", printed, re.MULTILINE)
    assert re.search(r"^26/2488-54149-1 +GALAXY", printed, re.MULTILINE)


def test_the_line_that_it_prints_opens_the_result(demo: Demo) -> None:
    folder, printed = demo
    statement = last_lines(printed)["open"]
    code = f"{statement}; print(d.sizes['spectrum'], d.chunksizes['spectrum'])"
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True)
    assert done.stdout == f"32 {(2,) * 16}\n", done.stderr


def test_both_real_galaxies_are_encoded(demo: Demo) -> None:
    encodings = open_run(str(demo[0])).encodings()
    real = encodings.isel(spectrum=encodings["plate"].isin([945, 2488]).to_numpy()).compute()
    assert real["class"].to_numpy().tolist() == ["STAR", "GALAXY"]
    assert np.isfinite(real["latents"]).all()


def test_the_embedded_model_reconstructs_the_mock_galaxies(demo: Demo) -> None:
    encodings = xr.open_zarr(demo[0] / "encodings" / "sdss-galaxies.zarr").compute()
    mocks = encodings.isel(spectrum=(encodings["plate"] >= 9901).to_numpy())
    assert mocks.sizes["spectrum"] == 30
    assert 0.8 < float((mocks["chi2"] / mocks["n_pixels"]).median()) < 1.5


def test_every_command_is_printed_as_it_would_be_typed(demo: Demo) -> None:
    commands = re.findall(r"^\$ spender-pipeline (\w+)", demo[1], re.MULTILINE)
    assert commands == ["targets", "plan", "run", "plot"]


def test_a_second_time_finds_everything_done(demo: Demo) -> None:
    folder, _ = demo
    before = {file: file.stat().st_mtime_ns for file in folder.glob("ledger/*/*.json")}
    command = [sys.executable, "-c", "import sys; from pipeline.cli import demo; sys.exit(demo.main(mocks=30))"]
    done = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {file: file.stat().st_mtime_ns for file in folder.glob("ledger/*/*.json")} == before


def test_without_ppxf_the_mock_spectra_are_encoded_and_the_remedy_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        demo_module.importlib.util, "find_spec", lambda name: None if name == "ppxf" else find_spec(name)
    )
    monkeypatch.chdir(tmp_path)
    assert demo_module.main(mocks=4) == 0
    printed = capfd.readouterr().out
    assert "for two real galaxies: remove ./demo, pip install ppxf, and start again" in printed
    assert re.search(r"^spectra +4, 4 with latents$", printed, re.MULTILINE)
    (plot,) = tmp_path.glob("demo/*.png")
    assert plot.stat().st_size > 50_000


def test_a_failed_command_ends_the_demo_with_its_status(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(demo_module.DemoError, match="status ended with 1"):
        demo_module.command("status", "nowhere")
    assert "error: " in capfd.readouterr().err
