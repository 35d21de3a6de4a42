"""Runs of earlier formats are read as they are; only going on with them is refused, in words.

data/format1.zip is the ROOT of a run that commit 87f8f38 made and finished: six mock spectra of its `mock_release`, one
file removed and one cut short, encoded with sdss-demo; without its logs.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

import pipeline
from pipeline.cli import main as cli
from pipeline.spectra.quality import Quality
from pipeline.store.root import encode_ledger
from tests.running import file_hashes


@pytest.fixture
def old(tmp_path: Path) -> Path:
    with zipfile.ZipFile(Path(__file__).parent.parent / "data" / "format1.zip") as archive:
        archive.extractall(tmp_path / "old")
    return tmp_path / "old"


def test_its_data_are_opened(old: Path) -> None:
    run = pipeline.open_run(old)
    encodings = run.encodings()
    assert (run.plan.plan_version, run.plan.n_spectra, encodings.sizes["spectrum"]) == (1, 6, 6)
    assert run.plan.unusable & Quality.NO_REDSHIFT
    usable = (encodings["quality"] & int(run.plan.unusable)) == 0
    assert int(usable.sum()) == 4
    assert bool(encodings["latents"].notnull().all("latent").equals(usable))
    assert run.find(str(run.targets()["target"][3])) == 3


def test_its_status_and_its_problems_are_shown(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pipeline.status(old).finished
    assert cli.main(["status", str(old), "--problems"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (first,) = (i for i, line in enumerate(lines) if line.startswith("2 spectra without a usable file"))
    assert [line.split("  ")[-1] for line in lines[first + 1 :]] == [
        f"{bit}: not recorded by the version that made the run" for bit in ("no_file", "bad_file")
    ]


def test_it_is_verified_and_damage_is_found(old: Path) -> None:
    assert pipeline.verify(old).problems == ()
    marker = old / "ledger" / encode_ledger(str(old), pipeline.open_run(old).plan, "sdss-demo").folder.split("/")[-1]
    file = marker / "000001.json"
    file.write_text(file.read_text().replace('"latents": "', '"latents": "0'))
    assert pipeline.verify(old).problems == ("encode sdss-demo chunk 1: latents is not what was written",)


def test_it_is_reported_and_drawn(old: Path, tmp_path: Path) -> None:
    pipeline.report(old, tmp_path / "report.html")
    assert "sdss-demo" in (tmp_path / "report.html").read_text()
    target = str(pipeline.open_run(old).targets()["target"][0])
    assert cli.main(["plot", str(old), "--id", target, "--output", str(tmp_path / "p.png")]) == 0
    assert (tmp_path / "p.png").stat().st_size > 10_000


def test_its_outliers_and_neighbors_are_listed_by_what_it_has(old: Path, tmp_path: Path) -> None:
    before = file_hashes(old)
    run = pipeline.open_run(old)
    found = run.outliers(4, output=tmp_path / "o.png")
    assert "run_significance" not in found
    assert "region_chi2, run_significance, run_wavelength: the run was planned without" in found.attrs["missing"]
    assert set(run.similar(found["target"].iloc[0], n=3).index) == set(found.index[1:])
    assert file_hashes(old) == before
    assert (old / "neighbors" / "sdss-demo.latents").exists()


@pytest.mark.parametrize(
    "command",
    [
        ("run", "--serial"),
        ("ingest", "--serial"),
        ("encode", "--serial"),
        ("finalize",),
        ("verify", "--repair"),
        ("plan", "--model", "other=sdss-demo"),
        ("plan", "--drop-model", "sdss-demo"),
    ],
)
def test_going_on_with_it_is_refused_in_words(
    old: Path, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    before = file_hashes(old)
    verb, *options = command
    assert cli.main([verb, str(old), *options]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: plan.json plan_version is 1, expected 2 in a run that goes on; it can be read; ")
    assert file_hashes(old) == before
