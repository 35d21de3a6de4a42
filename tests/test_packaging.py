"""What is installed is what is imported, and every list of dependencies says the same."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import environments

REPOSITORY = Path(__file__).resolve().parents[1]
CONDA_NAMES = {"torch": "pytorch"}
Ranges = dict[str, str]
IMPORT_NAMES = {"umap-learn": "umap", "pyyaml": "yaml"}
REQUIREMENT = re.compile(r"^(?P<name>[A-Za-z0-9_.-]+)\s*(?P<range>[<>=!~].*)?$")


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(lines: list[str]) -> dict[str, str]:
    matches = [REQUIREMENT.match(line) for line in lines]
    assert None not in matches
    return {normalized(m["name"]): (m["range"] or "").replace(" ", "") for m in matches if m}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def declared(project: dict[str, Any]) -> dict[str, str]:
    extras = project["project"]["optional-dependencies"].values()
    return requirements([*project["project"]["dependencies"], *(line for extra in extras for line in extra)])


@pytest.fixture(scope="module")
def locked() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return requirements([line for line in lines if line and not line.startswith("#")])


def test_environment_yml_agrees_with_pyproject(project: dict[str, Any], declared: dict[str, str]) -> None:
    listed = yaml.safe_load((REPOSITORY / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    conda = requirements([line for line in listed if isinstance(line, str)])
    pip = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    assert "--editable ." in pip
    from_pip = requirements([line for line in pip if not line.startswith("-")])
    assert conda.pop("python") == project["project"]["requires-python"]
    assert conda.pop("pip") == ""
    assert not set(conda) & set(from_pip)
    renamed = {CONDA_NAMES.get(name, name): range_ for name, range_ in declared.items()}
    expected = {**{name: declared[name] for name in from_pip}, **{name: renamed[name] for name in conda}}
    assert {**conda, **from_pip} == expected
    assert len(expected) == len(declared)


def test_every_dependency_is_locked_to_one_public_release(declared: Ranges, locked: Ranges) -> None:
    assert set(declared) <= set(locked)
    for name, version in locked.items():
        assert re.fullmatch(r"==[0-9][0-9a-z.]*", version), f"{name}{version}"


def test_locked_releases_lie_in_the_declared_ranges(declared: Ranges, locked: Ranges) -> None:
    from packaging.specifiers import SpecifierSet

    outside = [n for n, r in declared.items() if not SpecifierSet(r).contains(locked[n].removeprefix("=="))]
    assert outside == []


def test_the_lock_names_neither_this_project_nor_a_place(locked: dict[str, str]) -> None:
    text = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    assert "spender-pipeline" not in locked
    assert " @ " not in text
    assert "://" not in text


def names_in(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def imported_packages(folder: str) -> set[str]:
    names = set().union(*(names_in(file) for file in (REPOSITORY / folder).rglob("*.py")))
    own = {file.stem for file in (REPOSITORY / "benchmarks").glob("*.py")}  # imported by each other and by their tests
    return names - set(sys.stdlib_module_names) - {"pipeline", "spender_core", "tests"} - own


@pytest.mark.parametrize("folder", ["pipeline", "spender_core"])
def test_packages_import_only_declared_runtime_dependencies(folder: str, project: dict[str, Any]) -> None:
    of_runtime = requirements(project["project"]["dependencies"])
    runtime = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in of_runtime}
    extras = project["project"]["optional-dependencies"]
    optional_ones = {name for extra in ("kubernetes", "analysis", "explorer") for name in requirements(extras[extra])}
    optional = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in optional_ones}
    assert imported_packages(folder) <= runtime | optional


def test_only_what_talks_to_kubernetes_needs_its_packages(project: dict[str, Any]) -> None:
    of_kubernetes = requirements(project["project"]["optional-dependencies"]["kubernetes"])
    optional = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in of_kubernetes}
    users = {file.stem for file in (REPOSITORY / "pipeline").rglob("*.py") if names_in(file) & optional}
    assert users == {"notebook", "submit"}


def test_test_and_benchmark_imports_are_declared(declared: dict[str, str]) -> None:
    known = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in declared} | {"packaging"}
    assert imported_packages("tests") | imported_packages("benchmarks") <= known


def test_upstream_and_ppxf_are_never_runtime_dependencies(project: dict[str, Any]) -> None:
    runtime = set(requirements(project["project"]["dependencies"]))
    assert not runtime & {"spender", "ppxf"}


def test_the_command_is_the_package_entry_point(project: dict[str, Any]) -> None:
    assert project["project"]["scripts"] == {"spender-pipeline": "pipeline.cli.main:main"}
    installed = metadata.entry_points(group="console_scripts", name="spender-pipeline")
    assert [entry.value for entry in installed] == ["pipeline.cli.main:main"]


def test_every_data_file_of_the_model_is_packaged(project: dict[str, Any]) -> None:
    assert project["tool"]["setuptools"]["package-data"]["spender_core.data"] == ["*"]
    data = resources.files("spender_core") / "data"
    files = list(data.iterdir())
    assert files
    assert all(entry.is_file() for entry in files), "no pattern reaches into folders"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel of what git tracks and what is new."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    for name in ("pipeline", "spender_core", "deploy/base"):
        shutil.copytree(REPOSITORY / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, copy / name)
    build = "import setuptools.build_meta as b, sys; print(b.build_wheel(sys.argv[1]))"
    command = [sys.executable, "-c", build, str(folder)]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(folder / done.stdout.split()[-1])


@pytest.mark.long
def test_the_demo_runs_from_the_wheel_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    plain = [each for each in metadata.requires("spender-pipeline") or [] if ";" not in each]
    needed = [re.split(r"[^A-Za-z0-9._-]", each)[0] for each in plain]
    python = environments.make(tmp_path / "venv", [*needed, "ppxf"])
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    done = subprocess.run(
        [python, "-I", "-m", "pipeline", "demo"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "demo" / "encodings").is_dir()


def test_the_wheel_holds_every_module_and_every_file_beside_them(wheel: Path) -> None:
    ours = {
        file.relative_to(REPOSITORY).as_posix()
        for package in ("pipeline", "spender_core")
        for file in [*(REPOSITORY / package).rglob("*"), *(REPOSITORY / package / "kubernetes" / "base").glob("*")]
        if file.is_file() and file.suffix != ".pyc"
    }
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if ".dist-info/" not in name} == ours
    assert {"pipeline/kubernetes/base/kustomization.yaml", "pipeline/monitor/report.html"} <= ours


def test_the_manifests_of_a_run_are_those_of_deploy() -> None:
    base = resources.files("pipeline.kubernetes.base")
    deployed = REPOSITORY / "deploy" / "base"
    assert {file.name for file in deployed.iterdir() if file.suffix == ".yaml"} == {
        file.name for file in base.iterdir() if file.name.endswith(".yaml")
    }
    assert (base / "kustomization.yaml").read_text() == (deployed / "kustomization.yaml").read_text()


def test_version_is_said_once(project: dict[str, Any]) -> None:
    import pipeline

    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "pipeline.version.__version__"}
    assert metadata.version("spender-pipeline") == pipeline.__version__
    newest = re.search(r"^## (\S+)", (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert newest[1] in ("Unreleased", pipeline.__version__)
