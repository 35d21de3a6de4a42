"""Notebooks read finished stores: they run from top to bottom, define no functions and hold no outputs."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
FIRST_LOOK = next(file for file in NOTEBOOKS if file.stem == "01_first_look")


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


@pytest.mark.long
def test_first_look_runs_on_the_demo(demo: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = demo
    (tmp_path / "demo").symlink_to(folder)
    (tmp_path / "notebooks").mkdir()
    shutil.copy(FIRST_LOOK, tmp_path / "notebooks")
    notebook = nbformat.read(FIRST_LOOK, as_version=4)
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path / "notebooks")}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(figures) == 4
    assert not [output for output in outputs if output.get("name") == "stderr"]
