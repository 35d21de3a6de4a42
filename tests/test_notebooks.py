"""Notebooks run from top to bottom, define no functions and hold no outputs."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from spender_core import SDSS, load_model

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
FIRST_LOOK, TRAIN, GALLERY, REDSHIFTS, OUTLIERS = NOTEBOOKS


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


def execute(file: Path, folder: Path, **sizes: int) -> nbformat.NotebookNode:
    """Run a notebook in folder/notebooks, with other sizes in its first cell; gives it with its outputs."""
    (folder / "notebooks").mkdir(exist_ok=True)
    shutil.copy(file, folder / "notebooks")
    notebook = nbformat.read(file, as_version=4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    for name, size in sizes.items():
        first.source, found = re.subn(rf"(?m)^{name} = \d+", f"{name} = {size}", first.source)
        assert found == 1
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(folder / "notebooks")}}).execute()
    assert not [each for each in outputs(notebook) if each.get("name") == "stderr"]
    return notebook


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


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
    assert count_figures(execute(GALLERY, tmp_path, SPECTRA=30, DRAWS=1)) >= 12


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
