"""Catalogs, targets, names and checkpoints that try to reach beyond source, cache and ROOT: refused with the reason."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline
from pipeline import storage
from pipeline.catalog import targets
from pipeline.cli import main as cli
from pipeline.config import SurveyConfig
from pipeline.errors import ConfigError
from pipeline.planning.plan import Plan
from pipeline.store import root as runs
from tests.running import random_checkpoint

HOSTILE = [
    "../../../../tmp/x",
    "..",
    ".",
    "",
    "26/../..",
    "/etc",
    "26\0",
    "26\n",
    "26\n27",
    "..\\..\\x",
    "http://evil/",
    "%2e%2e",
    "%2e%2e%2fx",
    "26?x",
    "26#x",
    "~root",
    "file::x",
    "x" * 5000,
    "２６",
    "vé_1",
    "$(touch x)",
]


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize("run2d", HOSTILE, ids=range(len(HOSTILE)))
def test_a_catalog_whose_reduction_is_no_folder_is_refused(
    tmp_path: Path, run2d: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {"PLATE": [266, 266], "MJD": [51602, 51602], "FIBERID": [1, 2], "RUN2D": ["26", run2d], "Z": [0.1, 0.1]}
    pq.write_table(pa.table(rows), tmp_path / "catalog.parquet")
    output = ["--output", str(tmp_path / "t.parquet")]
    status = cli.main(["targets", str(tmp_path / "catalog.parquet"), "--no-fetch", *output])
    if status == 0:  # white space around a name is the catalog's padding; without a name the rule says 26
        assert run2d.strip(" \0\t\n") in ("26", "")
        assert set(targets.read_rows(str(tmp_path / "t.parquet"), 0, 2)["run2d"]) == {"26"}
        return
    assert "RUN2D" in one_line(capsys)
    assert names(tmp_path) == ["catalog.parquet"]


def table(mirror: Path) -> pd.DataFrame:
    return targets.read_targets(str(mirror / "sdss" / "spectro" / "redux" / "specObj-dr17.fits")).iloc[:3].copy()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("target", f"{run2d}/266-51602-1") for run2d in HOSTILE),
        *(("run2d", run2d) for run2d in HOSTILE),
        ("target", "26/../266-51602-1"),
        ("target", "26/266-51602-1/../../x"),
        ("target", "26/266-51602--1"),
        ("target", "26/266-51602-1e9"),
        ("target", f"26/266-51602-{'1' * 5000}"),
    ],
)
def test_a_hand_made_table_is_refused_by_row_and_column(
    tmp_path: Path, mirror: Path, column: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = table(mirror)
    good = Plan.create(SurveyConfig(source=str(mirror), targets="t", cache=str(tmp_path / "cache")), frame)
    frame[column] = frame[column].where(frame.index != frame.index[1], value)
    hostile = Plan.create(good.config, frame)
    url = str(tmp_path / "t.parquet")
    targets.write_targets(frame, url)
    assert cli.main(["plan", str(tmp_path / "planned"), "--targets", url, "--source", str(mirror)]) == 1
    shown = f"targets row 1 column {column}"
    assert shown in one_line(capsys)
    # somebody who may write ROOT makes plan and table fit each other
    root = str(tmp_path / "run")
    targets.write_targets(frame, runs.targets_url(root))
    storage.write_bytes(storage.join(root, "plan.json"), hostile.to_json())
    before = set(names(tmp_path))
    assert cli.main(["ingest", root, "--serial"]) == 1
    assert shown in one_line(capsys)
    assert set(names(tmp_path)) - {"run/clients"} == before


@pytest.mark.parametrize("run2d", [name for name in HOSTILE if name])  # without a name all reductions are looked in
def test_a_batch_takes_no_reduction_that_is_no_folder(tmp_path: Path, mirror: Path, run2d: str) -> None:
    if run2d.strip(" \0\t\n") == "26":  # padding, as in catalogs
        pipeline.make_batch(tmp_path / "DATA", [(266, 51602, 1, run2d)], source=str(mirror))
        files = [name for name in names(tmp_path / "DATA") if name.endswith(".fits")]
        assert [name.rsplit("/", 1)[-1] for name in files] == ["spec-0266-51602-0001.fits"]
        return
    with pytest.raises(ConfigError, match="run2d"):
        pipeline.make_batch(tmp_path / "DATA", [(266, 51602, 1, run2d)], source=str(mirror))
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["../x", "..", "a/b", "a\\b", "/tmp/x", "x\n", ".hidden", "%2e%2e/x"])
def test_a_model_is_no_path_out_of_the_encodings(
    tmp_path: Path, mirror: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    targets.write_targets(table(mirror), str(tmp_path / "t.parquet"))
    checkpoint = random_checkpoint(tmp_path)
    what = ["--targets", str(tmp_path / "t.parquet"), "--source", str(mirror)]
    assert cli.main(["plan", str(tmp_path / "run"), *what, "--model", f"{name}={checkpoint}"]) == 1
    one_line(capsys)
    assert not (tmp_path / "run").exists()
    config = f'source = "{mirror}"\ntargets = "{tmp_path / "t.parquet"}"\n[[model]]\ncheckpoint = "{checkpoint}"\n'
    (tmp_path / "survey.toml").write_text(f"{config}name = {name!r}\n")
    assert cli.main(["plan", str(tmp_path / "run"), "--config", str(tmp_path / "survey.toml")]) == 1
    assert "model.name" in one_line(capsys) or "\n" in name
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "target", ["../../x", "26/../../x", "/etc/passwd", "http://evil/", "\0", "1" * 5000, f"{'1' * 5000}-1-1"]
)
def test_an_id_is_looked_up_and_nothing_else(
    tmp_path: Path, mirror: Path, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(tmp_path / "run")
    pipeline.plan(root, targets=table(mirror), source=mirror)
    assert cli.main(["plot", root, f"--id={target}", "--output", str(tmp_path / "p.png")]) == 1
    assert "no target of this run has the id" in one_line(capsys)
    assert not (tmp_path / "p.png").exists()
