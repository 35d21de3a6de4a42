"""One direction only: which module may import which, read from the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# A module imports modules of its own layer's list only. Each entry: module -> the pipeline modules it
# may import.
PURE = {
    "quality": set[str](),
    "config": set[str](),
    "selection": set(),
    "fits": set(),
    "normalize": {"fits"},
    "infer": set(),
    "layouts": {"config"},
    "plan": {"config", "schema", "layouts"},
    "schema": {"plan"},
}
INPUT_OUTPUT = {
    "storage": set(),
    "catalog": {"storage"},
    "targets": {"storage", "selection", "catalog", "layouts"},
    "sources": {"storage"},
    "dataset": {"storage", "schema", "plan"},
    "ledger": {"storage"},
    "runs": {"storage", "ledger", "plan"},
}
LAYERS: list[set[str]] = [
    set(PURE),
    set(INPUT_OUTPUT),
    {"worker", "interrupt", "metrics", "scheduler"},
    {"archive", "quota"},
    {"stages"},
    {"tasks", "stores", "preflight"},
    {"job", "verification", "watch"},
    {"executor", "finalize", "progress", "journal", "throughput"},
    {"results", "batch", "status"},  # what is read of a run or an archive, by analysts and commands
    {"report", "page", "cluster", "mock", "mock_release", "train", "planning", "manifests"},
    {"submission"},
    {"commands", "cli", "demo", "__main__"},
]
SPENDER_CORE = {"infer", "worker", "batch", "commands", "planning", "cli", "report", "mock", "demo", "train"}
ONLY_IN = {
    "distributed": {"executor", "preflight", "worker", "cluster", "quota", "scheduler", "watch"},
    "zarr": {"dataset", "finalize", "schema", "storage"},
    "astropy": {"catalog", "mock_release"},
    "s3fs": {"storage"},
    "matplotlib": {"report"},
    "prometheus_client": {"metrics"},
    "jinja2": {"page"},
    "kr8s": {"submission"},
    "yaml": {"manifests"},
}


def modules(package: str) -> dict[str, ast.Module]:
    files = sorted((REPOSITORY / package).glob("*.py"))
    return {file.stem: ast.parse(file.read_text(encoding="utf-8")) for file in files}


def imported(tree: ast.Module) -> set[str]:
    """Every module that the source imports, for typing only or not, as dotted names."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


PIPELINE = modules("pipeline")


def siblings(module: str) -> set[str]:
    names = {name.split(".")[1] for name in imported(PIPELINE[module]) if name.startswith("pipeline.")}
    return names & set(PIPELINE)


def outside(tree: ast.Module) -> set[str]:
    return {name.split(".")[0] for name in imported(tree)}


def test_every_module_has_its_place() -> None:
    assert set(PIPELINE) - {"__init__"} <= set().union(*LAYERS)


@pytest.mark.parametrize("module", sorted(PURE | INPUT_OUTPUT))
def test_lower_modules_import_only_what_they_are_made_of(module: str) -> None:
    assert siblings(module) <= (PURE | INPUT_OUTPUT)[module] | {"config", "quality"}


@pytest.mark.parametrize("module", sorted(set(PIPELINE) - {"__init__"}))
def test_no_module_imports_from_a_higher_layer(module: str) -> None:
    level = next(i for i, layer in enumerate(LAYERS) if module in layer)
    allowed = set().union(*LAYERS[: level + 1])
    assert siblings(module) <= allowed


@pytest.mark.parametrize("module", sorted(modules("spender_core")))
def test_the_model_knows_nothing_of_the_pipeline(module: str) -> None:
    tree = modules("spender_core")[module]
    forbidden = {"pipeline", "dask", "distributed", "xarray", "zarr", "astropy", "pandas", "s3fs"}
    assert not outside(tree) & forbidden


def test_only_weights_opens_urls_in_the_model() -> None:
    users = {name for name, tree in modules("spender_core").items() if "fsspec" in outside(tree)}
    assert users <= {"weights"}


@pytest.mark.parametrize("module", sorted(set(PIPELINE) - {"__init__"}))
def test_only_a_few_modules_know_the_model(module: str) -> None:
    assert "spender_core" not in outside(PIPELINE[module]) or module in SPENDER_CORE


@pytest.mark.parametrize("package", sorted(ONLY_IN))
def test_a_package_stays_where_it_belongs(package: str) -> None:
    users = {name for name, tree in PIPELINE.items() if package in outside(tree)}
    assert users <= ONLY_IN[package]


@pytest.mark.parametrize("module", sorted(PURE))
def test_pure_modules_do_no_io(module: str) -> None:
    forbidden = {"fsspec", "os", "pathlib", "shutil", "socket", "tempfile", "urllib"}
    assert not outside(PIPELINE[module]) & forbidden


def test_importing_the_package_is_light() -> None:
    assert not outside(PIPELINE["__init__"]) - {"__future__", "importlib", "pipeline", "typing"}
