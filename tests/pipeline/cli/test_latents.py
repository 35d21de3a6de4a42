"""`outliers` and `similar` as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cli.main import main
from pipeline.errors import ExitStatus
from tests.pipeline.conftest import MakeRun


@pytest.fixture
def root(tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make_run(tmp_path / "run")
    return str(tmp_path / "run")


def test_outliers_are_listed_with_their_reasons(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["outliers", root, "-n", "3", "--where", "z < 0.3"]) == ExitStatus.DONE
    printed = capsys.readouterr()
    heading, *rows = printed.out.splitlines()
    assert heading.split() == ["target", "z", "reason"]
    assert len(rows) == 3
    assert "26/300-51600-" in rows[0]
    assert "sigma from the mean" in rows[0]
    assert printed.err.splitlines() == [
        "ranked by: distance, largest first",
        "missing: log_prob, log_prob_percentile: the run has no density of the latents",
        "left out: 4 spectra without latents",
    ]


def test_files_are_written_and_named(root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(tmp_path / name) for name in ("o.csv", "o.png")]
    assert main(["outliers", root, "-n", "2", "--output", files[0], "--output", files[1]]) == ExitStatus.DONE
    assert capsys.readouterr().out.splitlines() == [f"2 spectra: {file}" for file in files]
    assert all(Path(file).exists() for file in files)


def test_neighbors_are_listed(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["similar", root, "--id", "300-51600-9", "-n", "4", "--remake"]) == ExitStatus.DONE
    printed = capsys.readouterr()
    heading, *rows = printed.out.splitlines()
    assert heading.split() == ["target", "distance", "z", "class", "quality_words"]
    assert len(rows) == 4
    assert printed.err.startswith("distances in units of: whitened latents")


def test_what_is_not_done_is_said_and_counted(
    tmp_path: Path, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "part", without=[("encode toy", 3)])
    assert main(["similar", str(tmp_path / "part"), "--id", "300-51600-9"]) == ExitStatus.SOME_FAILED
    assert "left out: 4 spectra that are not encoded yet; status says why" in capsys.readouterr().err


def test_mistakes_are_one_line(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (["outliers", root, "-n", "0"], "error: n is 0, expected 1 to 10000 spectra"),
        (
            ["similar", root, "--id", "1-2-3"],
            "error: no target of this run has the id '1-2-3'; ids are written as PLATE-MJD-FIBER",
        ),
        (["outliers", root, "--output", "o.txt"], "error: --output is "),
        (["outliers", root, "--where", "mass > 1"], "error: where is 'mass', expected a column of the table"),
    ):
        assert main(arguments) == ExitStatus.REFUSED
        error = capsys.readouterr().err
        assert error.startswith(words)
        assert len(error.splitlines()) == 1
