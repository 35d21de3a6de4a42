"""Reductions and redshifts are settled at archives that answer badly."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.compute.settle import settle, settling
from pipeline.errors import ConfigError, RefusedError
from pipeline.surveys.registry import get_survey
from tests.archive_folder import moved, place_file, served, without
from tests.toy_survey import TOY

SDSS = get_survey("sdss")

FAULTS = {"empty": b"", "page": b"<html>busy</html>", "503": 503, "403": 403, "text": b"no FITS"}


def ask(
    frame: pd.DataFrame, source: str | None, reduction: str = "auto", layout: str | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """Settle as `targets` does, with a catalog that has redshifts and suggests nothing."""
    return settling(SDSS, reduction, source, layout, True, None)(frame, np.zeros(len(frame), np.bool_), True)


def two_of_a_plate(real: pd.DataFrame) -> pd.DataFrame:
    """Give two targets of the first plate that has two."""
    plate = real["plate"][real.duplicated(["plate", "mjd"])].iloc[0]
    return real[real["plate"] == plate].iloc[:2].reset_index(drop=True)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fault", FAULTS)
def test_one_bad_file_costs_its_own_redshift_alone(real: pd.DataFrame, mirror: Path, fault: str):
    pair = two_of_a_plate(real)
    numbers = pair.iloc[0]
    name = f"{numbers['plate']:04d}-{numbers['mjd']}-{numbers['fiberid']:04d}.fits"
    with served(mirror, bad=(name,), fault=FAULTS[fault]) as url:
        frame, lines = ask(without(pair), url)
    assert frame["target"].tolist() == pair["target"].tolist()
    assert np.isnan(frame["z"].iloc[0])
    assert frame["z"].iloc[1] == pair["z"].iloc[1]
    assert lines[0] == f"run2d {numbers['run2d']} for 1 plate by its file at {url}"
    assert f"z of 1 target from their files at {url}" in lines
    assert lines[-1].startswith("z of 1 target stays unknown")
    assert pair["target"].iloc[0] in lines[-1]


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("missing", [403, b"<html>not found</html>"], ids=["403", "page"])
def test_a_fault_in_the_place_of_each_missing_file_leaves_the_other_candidates(
    real: pd.DataFrame, mirror: Path, missing: int | bytes
):
    with served(mirror, missing=missing) as url:
        frame, lines = ask(without(real, z=False), url)
    pd.testing.assert_frame_equal(frame, real)
    (said,) = [line for line in lines if "taken since" in line]
    assert said.startswith("run2d of 20 plates taken since no file of the one before it came, such as eboss/")
    assert "v5_13_2" in said


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_fault_that_may_pass_never_chooses_another_reduction_while_the_plate_has_other_files(
    real: pd.DataFrame, mirror: Path, tmp_path: Path
):
    """A mirror with two reductions of a plate: the fault of one file of the first must not make it the second."""
    name = next(mirror.rglob("spec-*.fits")).name
    for run2d, fibers in (("v5_13_2", (1, 2)), ("v5_13_0", (1, 2))):
        for fiber in fibers:
            folder = f"eboss/spectro/redux/{run2d}/spectra/lite/5000"
            place_file(mirror, tmp_path, name, f"{folder}/spec-5000-56000-{fiber:04d}.fits")
    frame = pd.concat([moved(real, 5000, 56000, fiber) for fiber in (1, 2)], ignore_index=True)
    bad = ("v5_13_2/spectra/lite/5000/spec-5000-56000-0001.fits",)
    with served(tmp_path, bad=bad, fault=503) as url:
        frame, _ = ask(frame.assign(z=np.float32(1)), url)
    assert set(frame["run2d"]) == {"v5_13_2"}


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("fault", "words"),
    [(403, "403 Forbidden"), (b"<html>", "the server returned a web page"), (503, "503 "), (b"text", "no FITS file")],
    ids=["403", "page", "503", "text"],
)
def test_a_plate_of_which_nothing_comes_is_refused_with_its_fault(
    real: pd.DataFrame, mirror: Path, fault: int | bytes, words: str
):
    numbers = real.iloc[0]
    with served(mirror, bad=(".fits",), fault=404) as url, pytest.raises(RefusedError, match="has no file of"):
        ask(without(real.iloc[:1]), url)
    others = real[real["plate"] != numbers["plate"]]
    frame = without(pd.concat([others, real.iloc[:1]], ignore_index=True), z=False)
    bad = (f"-{numbers['plate']:04d}-{numbers['mjd']}-{numbers['fiberid']:04d}.fits",)
    with served(mirror, bad=bad, fault=fault) as url, pytest.raises(RefusedError) as error:
        ask(frame, url)
    message = str(error.value)
    assert message.startswith(f"{url} gives no file of plate {numbers['plate']}, mjd {numbers['mjd']} (run2d 26, ")
    assert bad[0] in message
    assert words in message
    assert "network" not in message


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_login_page_for_everything_is_not_taken_for_silence(real: pd.DataFrame, mirror: Path):
    with served(mirror, bad=(".fits",), fault=b"<html>login</html>") as url, pytest.raises(RefusedError) as error:
        ask(without(real.iloc[:1]), url)
    assert "the server returned a web page instead of the file" in str(error.value)
    assert "network" not in str(error.value)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_server_that_is_busy_for_ever_does_not_answer(real: pd.DataFrame, mirror: Path):
    start = time.monotonic()
    with served(mirror, bad=(".fits",), fault=503) as url, pytest.raises(ConfigError) as error:
        ask(without(real.iloc[:1]), url)
    assert time.monotonic() - start < 60
    assert "expected an archive that answers" in str(error.value)
    assert "503 Service Unavailable" in str(error.value)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_source_without_reductions_has_its_good_files_asked_for_first(tmp_path: Path):
    """The first file never comes; others do, so the fault is its own."""
    (tmp_path / "nights" / "n1").mkdir(parents=True)
    for star in (7, 8):
        (tmp_path / "nights" / "n1" / f"{star}.txt").write_text(f"{star}\n5000 1 1 0\n5002 1 1 0\n")
    frame = pd.DataFrame({"target": ["n1:7", "n1:8"], "z": np.array([np.nan, np.nan], np.float32)})
    with served(tmp_path, bad=("7.txt",), fault=403) as url:
        lines = settle(frame, TOY, url).lines
    assert lines == [
        "z of 1 target stays unknown; some models need it: 403 Forbidden (n1:7)",
        "z of 1 target stays unknown; some models need it: the file has no redshift (n1:8)",
    ]


# --- without the archive, or with a bad one ---
