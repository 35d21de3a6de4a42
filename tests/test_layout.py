"""The rooms of the two packages, and one direction of imports between them, read from the source."""

from __future__ import annotations

import ast
import subprocess
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import pipeline

REPOSITORY = Path(__file__).resolve().parents[1]

# A room imports rooms of the lines above its own, and no other. Rooms of one line do not know each other.
ORDER = (
    {"version", "errors", "signals", "retry", "credentials", "disk", "web"},
    {"spectra", "config", "places"},
    {"surveys", "storage"},
    {"catalog", "archive", "planning", "mock"},
    {"store"},
    {"compute", "results"},
    {"monitor", "training"},
    {"api"},
    {"kubernetes", "explorer"},
    {"cli"},
    {"__main__"},
)
# Where a package may be imported, by room or module; everywhere else it may not.
ONLY_IN = {
    "astropy": {"surveys", "catalog.formats", "mock", "explorer.search", "results.spectrum", "results.tables"},
    "distributed": {"results.tables.hats", "compute", "archive.quota", "kubernetes.notebook", "api"},
    "jinja2": {"monitor.report"},
    "bokeh": {"explorer"},
    "datashader": {"explorer"},
    "holoviews": {"explorer"},
    "kr8s": {"kubernetes.submit"},
    "panel": {"explorer"},
    "matplotlib": {"explorer.raster", "results.figures", "results.plot", "results.run", "training.curve"},
    "prometheus_client": {"compute.stages.metrics"},
    "s3fs": {"storage"},
    "torch": {
        "compute.cluster",  # counts this machine's GPUs
        "compute.preflight",
        "compute.stages",
        "mock.spectra",
        "results.figures.attention",
        "results.batch",
        "results.figures.redshift",
        "training",
    },
    "yaml": {"kubernetes.manifests"},
    "zarr": {"storage", "store"},
}
# The modules that know the model, beside those where torch may be.
KNOW_THE_MODEL = {
    "__init__",  # the error that users meet
    "cli.arguments",
    "cli.demo",
    "cli.density",
    "cli.submit",
    "cli.train",
    "compute.choice",
    "kubernetes.prepare",
    "planning.memory",
    "results.tables.split",
    "store.checkpoint",
}
PURE = ("errors", "version", "config", "spectra", "planning.schema", "planning.model", "planning.memory", "surveys")
MOST_LINES, MOST_MODULES = 400, 12


def sources(package: str) -> dict[str, Path]:
    """Give the modules of a package by their dotted names below it; a folder's own is the folder's name."""
    folder = REPOSITORY / package
    names = {file.relative_to(folder).with_suffix("").as_posix().replace("/", "."): file for file in modules_in(folder)}
    return {name.removesuffix(".__init__"): file for name, file in names.items()}


def modules_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*.py") if not any(part.is_symlink() for part in file.parents))


PIPELINE = sources("pipeline")
CORE = sources("spender_core")


@cache
def imported(file: Path) -> frozenset[str]:
    """Every module that a source imports, for typing only or not, at once or later, as dotted names."""
    package = list(file.relative_to(REPOSITORY).parent.parts)
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def own(file: Path) -> set[str]:
    """Give the modules of the pipeline that a source imports."""
    below = {name.removeprefix("pipeline.") for name in imported(file) if name.startswith("pipeline.")}
    return {name for name in below if name in PIPELINE}


def outside(file: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(file)}


def room(module: str) -> str:
    return module.split(".")[0]


def is_in(module: str, places: set[str] | tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def level(name: str) -> int:
    return next(i for i, rooms in enumerate(ORDER) if name in rooms)


def test_every_module_is_in_a_room() -> None:
    assert {room(module) for module in PIPELINE} == set().union(*ORDER) | {"__init__"}


def test_no_module_imports_the_face_of_the_package() -> None:
    """`from pipeline import run` would bring all rooms at once, from below; modules are imported from their rooms."""
    face = set(pipeline.__all__)
    users = {
        module
        for module, file in PIPELINE.items()
        if "pipeline" in outside(file) and {name.removeprefix("pipeline.") for name in imported(file)} & face
    }
    assert users == set()


@pytest.mark.parametrize("module", sorted(set(PIPELINE) - {"__init__"}))
def test_imports_go_one_way(module: str) -> None:
    upwards = {
        name
        for name in own(PIPELINE[module])
        if room(name) != room(module) and level(room(name)) >= level(room(module))
    }
    assert not upwards


def test_no_module_imports_itself_by_a_detour() -> None:
    modules = {module: own(file) - {module} for module, file in PIPELINE.items() if file.name != "__init__.py"}
    try:
        TopologicalSorter(modules).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("package", sorted(ONLY_IN))
def test_a_package_stays_where_it_belongs(package: str) -> None:
    users = {module for module, file in PIPELINE.items() if package in outside(file)}
    assert {module for module in users if not is_in(module, ONLY_IN[package])} == set()


def test_few_modules_know_the_model() -> None:
    users = {module for module, file in PIPELINE.items() if "spender_core" in outside(file)}
    assert {module for module in users if not is_in(module, KNOW_THE_MODEL | ONLY_IN["torch"])} == set()


@pytest.mark.parametrize("module", [module for module in PIPELINE if is_in(module, PURE)])
def test_pure_modules_do_no_io(module: str) -> None:
    forbidden = {"fsspec", "os", "pathlib", "shutil", "socket", "tempfile", "urllib"}
    assert not outside(PIPELINE[module]) & forbidden


@pytest.mark.parametrize("module", sorted(CORE))
def test_the_model_knows_nothing_of_the_pipeline(module: str) -> None:
    forbidden = {"pipeline", "dask", "distributed", "xarray", "zarr", "astropy", "pandas", "s3fs"}
    assert not outside(CORE[module]) & forbidden


def test_only_weights_opens_urls_in_the_model() -> None:
    assert {module for module, file in CORE.items() if "fsspec" in outside(file)} <= {"weights"}


def test_importing_the_package_is_light() -> None:
    file = REPOSITORY / "pipeline" / "__init__.py"
    at_once = [node for node in ast.parse(file.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {node.module for node in at_once if isinstance(node, ast.ImportFrom)}
    assert names <= {"__future__", "importlib", "typing", "pipeline.version"}


@pytest.mark.parametrize(
    "file", [*PIPELINE.values(), *CORE.values()], ids=lambda file: str(file.relative_to(REPOSITORY))
)
def test_a_module_fits_into_one_room(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_a_folder_has_at_most_a_dozen_modules() -> None:
    folders = {file.parent for file in PIPELINE.values()} - {REPOSITORY / "pipeline" / "cli"}
    counts = {folder: len([file for file in folder.glob("*.py") if file.name != "__init__.py"]) for folder in folders}
    assert {folder.name: count for folder, count in counts.items() if count > MOST_MODULES} == {}


def test_a_folder_says_in_one_line_what_it_is_for() -> None:
    faces = [file for file in PIPELINE.values() if file.name == "__init__.py" and file.parent.name != "pipeline"]
    for file in faces:
        (docstring,) = ast.parse(file.read_text(encoding="utf-8")).body
        assert isinstance(docstring, ast.Expr)
        assert len(file.read_text(encoding="utf-8").splitlines()) == 1, file


def test_no_survey_is_known_outside_of_its_folder() -> None:
    """But for the mocks and the demo, which make their files, and the registry's one line each."""
    for home in ("surveys.sdss", "surveys.desi"):
        users = {module for module, file in PIPELINE.items() if any(is_in(name, (home,)) for name in own(file))}
        assert {module for module in users if not is_in(module, (home, "mock", "cli.demo"))} == set()


def test_the_repository_has_no_other_folders() -> None:
    """What a test leaves in the working folder must not be committed with the rest."""
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a checkout of git, or another user's")
    folders = {name.split("/")[0] for name in listed.stdout.splitlines() if "/" in name}
    assert folders == {".ci", "benchmarks", "deploy", "docs", "notebooks", "pipeline", "spender_core", "tests"}
