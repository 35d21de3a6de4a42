"""Notebooks run from top to bottom, define no functions and hold no outputs.

Where EXECUTED_NOTEBOOKS names a folder, each is written there with its outputs, for the pages.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest
from astropy import units
from astropy.table import Table
from nbclient import NotebookClient

import pipeline
from spender_core import SDSS, load_model
from tests import desi_release

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
FIRST_LOOK, TRAIN, GALLERY, REDSHIFTS, OUTLIERS, OWN_LIST, PAPER, DESI = NOTEBOOKS


def source(file: Path) -> ast.Module:
    cells = nbformat.read(file, as_version=4).cells
    return ast.parse("\n".join(cell.source for cell in cells if cell.cell_type == "code"))


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_outputs_are_cleared(file: Path) -> None:
    for cell in nbformat.read(file, as_version=4).cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_no_functions_are_defined(file: Path) -> None:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    assert not [node for node in ast.walk(source(file)) if isinstance(node, kinds)]


def test_first_look_needs_nothing_of_ours() -> None:
    imports = [node for node in ast.walk(source(FIRST_LOOK)) if isinstance(node, ast.Import)]
    assert {alias.name for node in imports for alias in node.names} == {"matplotlib.pyplot", "numpy", "xarray"}
    assert not [node for node in ast.walk(source(FIRST_LOOK)) if isinstance(node, ast.ImportFrom)]


def execute(file: Path, folder: Path, *, shown: bool = True, **sizes: int) -> nbformat.NotebookNode:
    """Run a notebook in folder/notebooks, with other sizes in its first cell; gives it with its outputs.

    shown: whether this is the execution that the pages show, of those that a notebook has here.
    """
    (folder / "notebooks").mkdir(exist_ok=True)
    shutil.copy(file, folder / "notebooks")
    notebook = nbformat.read(file, as_version=4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    for name, size in sizes.items():
        first.source, found = re.subn(rf"(?m)^{name} = \d+", f"{name} = {size}", first.source)
        assert found == 1
    resources = {"metadata": {"path": str(folder / "notebooks")}}
    NotebookClient(notebook, timeout=900, record_timing=False, resources=resources).execute()
    assert not [each for each in outputs(notebook) if each.get("name") == "stderr"]
    if shown and os.environ.get("EXECUTED_NOTEBOOKS"):
        kept = Path(os.environ["EXECUTED_NOTEBOOKS"])
        kept.mkdir(parents=True, exist_ok=True)
        (kept / file.name).write_text(nbformat.writes(notebook).replace(str(folder), "..") + "\n", encoding="utf-8")
    return notebook


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def printed(notebook: nbformat.NotebookNode) -> str:
    return "".join(output["text"] for output in outputs(notebook) if output.get("name") == "stdout")


def count_figures(notebook: nbformat.NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


@pytest.mark.long
def test_first_look_runs_on_the_demo(demo: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "demo").symlink_to(demo[0])
    assert count_figures(execute(FIRST_LOOK, tmp_path)) == 4


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_model_is_trained_on_real_spectra_and_compared(mirror: Path, tmp_path: Path) -> None:
    (tmp_path / "mirror").symlink_to(mirror)
    notebook = execute(TRAIN, tmp_path, SPECTRA=24, EPOCHS=1, TUNING=1, FOLDS=2)
    assert count_figures(notebook) == 4
    (table,) = (each.data["text/html"] for each in outputs(notebook) if "text/html" in each.get("data", {}))
    assert "NaN" not in table
    models = tmp_path / "demo" / "models"
    assert {file.name for file in models.glob("*.pt")} == {"scratch.pt", "tuned.pt", "fold0.pt", "fold1.pt"}


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_gallery_shows_real_spectra(mirror: Path, tmp_path: Path) -> None:
    (tmp_path / "mirror").symlink_to(mirror)
    _, losses = load_model("sdss-galaxies", SDSS())
    assert count_figures(execute(GALLERY, tmp_path, DRAWS=2)) == (12 if losses is None else 13)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_gallery_makes_do_with_the_demo(demo: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "release").symlink_to(demo[0] / "release")
    assert count_figures(execute(GALLERY, tmp_path, shown=False, SPECTRA=30, DRAWS=1)) >= 12


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_redshifts_are_found_and_made_to_fail(mirror: Path, tmp_path: Path) -> None:
    (tmp_path / "mirror").symlink_to(mirror)
    notebook = execute(REDSHIFTS, tmp_path, NOISY=4)
    assert count_figures(notebook) == 4
    tables = [each.data["text/html"] for each in outputs(notebook) if "text/html" in each.get("data", {})]
    assert any("STAR" in table for table in tables)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_outliers_are_listed_and_a_feature_is_found(mirror: Path, tmp_path: Path) -> None:
    (tmp_path / "mirror").symlink_to(mirror)
    notebook = execute(OUTLIERS, tmp_path, SPECTRA=60, LISTED=6)
    assert count_figures(notebook) == 3
    tables = [each.data["text/html"] for each in outputs(notebook) if "text/html" in each.get("data", {})]
    assert "run_significance" in tables[0]


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_my_own_list_with_mistakes_becomes_a_survey_and_grows(mirror: Path, tmp_path: Path) -> None:
    (tmp_path / "mirror").symlink_to(mirror)
    notebook = execute(OWN_LIST, tmp_path)
    assert count_figures(notebook) == 2
    said = printed(notebook)
    assert "43 rows, 41 targets" in said
    assert "1 left out, which repeat others" in said
    assert "first latents as they were: True" in said
    run = pipeline.open_run(tmp_path / "demo" / "my_list")
    names = run.table()["NAME"]
    assert sorted(names) == sorted(["no such fiber", *(f"galaxy {number}" for number in range(60))])
    assert run.problems()["row"].tolist() == names.index[names == "no such fiber"].tolist()


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_paper_gets_a_table_with_units_a_crossmatch_and_stacks(mirror: Path, tmp_path: Path) -> None:
    (tmp_path / "mirror").symlink_to(mirror)
    notebook = execute(PAPER, tmp_path)
    assert count_figures(notebook) == 5
    assert "the same file: True" in printed(notebook)
    run = pipeline.open_run(tmp_path / "demo" / "paper")
    results = Table.read(tmp_path / "demo" / "paper_results" / "results.fits")
    assert len(results) == run.good().sum()
    assert results["norm"].unit == units.Unit("1e-17 erg s-1 cm-2 Angstrom-1")
    assert results.meta["MODSHA"] == run.model().sha256
    assert "doi:" in results.meta["CITE"]
    other = Table.read(tmp_path / "demo" / "paper_results" / "other.fits")
    matched = Table.read(tmp_path / "demo" / "paper_results" / "matched.csv")
    assert len(other) == 2 * len(matched)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_desi_coadd_is_encoded_by_a_model_that_is_trained_for_it(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "desi").symlink_to(desi_release.release_of(shared_data))
    notebook = execute(DESI, tmp_path)
    assert count_figures(notebook) == 5
    _, _, _, targetid = desi_release.KEY.split("-")
    assert f"{targetid} is row 0" in printed(notebook)
    found = pipeline.open_run(tmp_path / "demo" / "desi" / "run").encodings("tiny").load()
    assert found["targetid"].values.tolist() == [int(targetid)]
    assert np.isfinite(found["latents"]).all()
    mocks = pipeline.open_run(tmp_path / "demo" / "desi" / "training").table("tiny")
    assert (mocks["chi2_fit"] / mocks["n_pixels"]).median() < min(1.2, mocks["chi2_n"].median())
