from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline import storage
from pipeline.cli import main as cli
from pipeline.errors import ConfigError
from pipeline.places import require_short, require_usable
from pipeline.planning.model import ModelConfig

NOWHERE = {
    "": "an empty one may come from a variable",
    "  ": "a path or a URL",
    r"C:\data\run": "under WSL the drive C: is /mnt/c",
    "c:/data/run": "a path of this system",
    "file:///D:/run": "a path of this system",
    "~nouser-at-all/run": "there is no user 'nouser-at-all'",
    "file://~nouser-at-all": "write ./~nouser-at-all",
    "runs/" + "x" * 256: "names of at most 255 bytes; one has 256",
    "s3://bucket/" + "é" * 128: "one has 256",
    "/x" * 1800: "a path of at most 3331 bytes",
}


@pytest.mark.parametrize("url", NOWHERE)
def test_a_place_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        require_usable("ROOT", url)
    assert caught.value.key == "ROOT"
    assert NOWHERE[url] in str(caught.value)
    with pytest.raises(ConfigError, match="is"):
        storage.place(url)


@pytest.mark.parametrize(
    "url",
    ["run", "~/run", "./~x", "a~b/c", "s3://bucket/~x", "memory://run", "c", "x/c:/y", "https://host:80/x", "x" * 255],
)
def test_other_places_are_taken(url: str) -> None:
    require_usable("ROOT", url)


def test_names_that_become_parts_of_files_are_shorter() -> None:
    require_short("model.name", "x" * 200)
    with pytest.raises(ConfigError, match="a name of at most 200 bytes; it has 201"):
        ModelConfig(name="x" * 201, checkpoint="m.pt")
    with pytest.raises(ConfigError, match="it has 202"):
        require_short("keep", "é" * 101)


@pytest.mark.parametrize("what", ["ROOT", "--targets", "--cache", "--source", "--model"])
@pytest.mark.parametrize("url", NOWHERE)
def test_plan_refuses_them_and_writes_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    catalog: Path,
    what: str,
    url: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["targets", str(catalog), "--output", "t.parquet"]) == 0
    capsys.readouterr()
    given = {"ROOT": "run", "--targets": "t.parquet", "--source": ".", "--cache": "cache", "--model": "sdss-galaxies"}
    given[what] = url
    root = given.pop("ROOT")
    assert cli.main(["plan", root, *(word for pair in given.items() for word in pair)]) == 1
    shown = capsys.readouterr().err
    assert len(shown.splitlines()) == 1
    assert shown.startswith(f"error: {what} is ")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["t.parquet"]


@pytest.mark.parametrize("verb", ["status", "run", "verify", "ingest", "finalize"])
def test_every_verb_refuses_an_empty_root(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb, ""]) == 1
    assert capsys.readouterr().err.startswith("error: ROOT is '', expected a path or a URL; ")


@pytest.mark.parametrize("what", ["ROOT", "--targets", "--cache"])
def test_memory_is_refused_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], catalog: Path, what: str
) -> None:
    table = str(tmp_path / "t.parquet")
    assert cli.main(["targets", str(catalog), "--output", table]) == 0
    capsys.readouterr()
    given = {"ROOT": str(tmp_path / "run"), "--targets": table, "--source": str(tmp_path)} | {what: "memory://x"}
    root = given.pop("ROOT")
    assert cli.main(["plan", root, *(word for pair in given.items() for word in pair)]) == 1
    expected = f"error: {what} is 'memory://x', expected a place that other processes find, too; memory:// ends with"
    assert capsys.readouterr().err.startswith(expected)
    assert not (tmp_path / "run").exists()


def test_from_python_memory_stays_a_place(mirror: Path, catalog: Path, tmp_path: Path) -> None:
    targets = pipeline.select_targets(catalog).frame.iloc[:2]
    root = f"memory://{tmp_path.name}/run"
    pipeline.plan(root, targets=targets, source=mirror, cache=f"memory://{tmp_path.name}/cache")
    pipeline.run(root, serial=True, stages="ingest", progress=False)
    assert np.isfinite(pipeline.open_run(root).spectra().flux).all()
    storage.remove(f"memory://{tmp_path.name}", recursive=True)
