"""Spectra without a usable file are listed with the reason and tried again; a few chunks of a run are done first."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

import pipeline
from pipeline.catalog import targets
from pipeline.cli import main as cli
from pipeline.surveys.sdss.survey import SDSS
from tests.running import file_hashes, make_root

MODELS = ("first", "second")


@pytest.fixture(scope="module")
def frame(mirror: Path) -> pd.DataFrame:
    return targets.read_targets(str(mirror / "sdss/spectro/redux/specObj-dr17.fits")).iloc[:14].reset_index(drop=True)


def finished(folder: Path, source: Path, name: str) -> Path:
    """Plan and do a run of 8 targets in chunks of 4."""
    root, _ = make_root(folder, source, name=name, n=8, shard=4, models=MODELS)
    pipeline.run(root, serial=True, progress=False)
    return Path(root)


def test_missing_and_bad_files_have_a_reason_and_are_tried_again(
    frame: pd.DataFrame, mirror: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "release"
    shutil.copytree(mirror / "sdss", source / "sdss")
    paths = [source / path for path in SDSS.paths("spec-lite", frame["target"].tolist()[:8])]
    whole = [path.read_bytes() for path in paths]
    paths[0].unlink()
    paths[5].write_bytes(whole[5][:20_000])
    paths[6].write_bytes(whole[7])
    root = finished(tmp_path, source, "run")
    found = pipeline.open_run(root).problems()
    assert found["row"].tolist() == [0, 5, 6]
    assert found["target"].tolist() == frame["target"].iloc[[0, 5, 6]].tolist()
    assert found["quality"].tolist() == ["NO_FILE", "BAD_FILE", "WRONG_FILE"]
    assert found["reason"][0] == "the source has no file of it"
    assert "truncated" in found["reason"][1]
    assert "the file holds" in found["reason"][2]
    assert cli.main(["status", str(root), "--problems"]) == 0
    assert f"  {frame['target'][5]}  bad_file: " in capsys.readouterr().out
    for path, data in zip(paths, whole, strict=True):
        path.write_bytes(data)
    ingest_of_second = root / "ledger"
    before = {file: file.stat().st_mtime_ns for file in ingest_of_second.rglob("000001.json")}
    assert cli.main(["run", str(root), "--serial", "--retry", "no_file"]) == 0
    assert pipeline.open_run(root).problems()["row"].tolist() == [5, 6]
    assert before == {file: file.stat().st_mtime_ns for file in ingest_of_second.rglob("000001.json")}
    assert cli.main(["run", str(root), "--serial", "--retry", "bad_file,wrong_file"]) == 0
    assert pipeline.open_run(root).problems().empty
    assert file_hashes(root) == file_hashes(finished(tmp_path, source, "undisturbed"))
    capsys.readouterr()
    assert cli.main(["run", str(root), "--serial", "--retry", "no_norm"]) == 1
    assert "retry is 'no_norm', expected one of no_file, bad_file, wrong_file" in capsys.readouterr().err


def test_a_few_chunks_are_tried_first(
    frame: pd.DataFrame, mirror: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(make_root(tmp_path, mirror, n=14, shard=4, models=MODELS)[0])
    assert cli.main(["run", str(root), "--serial", "--only", "5:9"]) == 0
    done = [sorted(int(file.stem) for file in folder.glob("0*.json")) for folder in sorted((root / "ledger").iterdir())]
    assert done == [[1, 2]] * 3
    short = str(frame["target"][13]).rpartition("/")[2]
    assert cli.main(["run", str(root), "--serial", "--only", f"{frame['target'][0]},{short}"]) == 0
    assert pipeline.status(root).finished
    capsys.readouterr()
    assert cli.main(["run", str(root), "--serial", "--only", "20:30"]) == 1
    assert "the run has no rows 20:30; choose some of 0:14" in capsys.readouterr().err
