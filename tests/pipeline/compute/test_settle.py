from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.catalog import targets
from pipeline.compute.settle import Settled, settle, settling
from pipeline.errors import ConfigError, RefusedError
from pipeline.surveys.registry import get_survey
from tests.faulty_server import QuietServer
from tests.toy_survey import TOY

SDSS = get_survey("sdss")


class Recording(SimpleHTTPRequestHandler):
    """Serves a folder and remembers what was asked.

    The first `faults` requests fail with `status`, those of `bad` paths by `fault`, those of missing files by
    `missing`: a status, or the body of a status of success.
    """

    asked: list[str] = []
    faults = 0
    status = 503
    bad: tuple[str, ...] = ()
    fault: int | bytes = 404
    missing: int | bytes = 404

    def do_GET(self) -> None:
        Recording.asked.append(self.path)
        if len(Recording.asked) <= Recording.faults:
            self.fail(Recording.status)
        elif self.path.endswith(Recording.bad) and Recording.bad:
            self.fail(Recording.fault)
        elif not Path(self.translate_path(self.path)).is_file():
            self.fail(Recording.missing)
        else:
            super().do_GET()

    def fail(self, answer: int | bytes) -> None:
        if isinstance(answer, int):
            self.send_error(answer)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up a file after two retries instead of five: seconds instead of a quarter of a minute."""
    monkeypatch.setattr("pipeline.compute.settle.RETRIES", 2)


@contextmanager
def served(
    folder: Path,
    faults: int = 0,
    status: int = 503,
    *,
    bad: tuple[str, ...] = (),
    fault: int | bytes = 404,
    missing: int | bytes = 404,
) -> Iterator[str]:
    Recording.asked, Recording.faults, Recording.status = [], faults, status
    Recording.bad, Recording.fault, Recording.missing = bad, fault, missing
    with QuietServer(("127.0.0.1", 0), partial(Recording, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def real(catalog: Path) -> pd.DataFrame:
    return targets.read_targets(str(catalog))


def without(frame: pd.DataFrame, *, run2d: bool = True, z: bool = True) -> pd.DataFrame:
    """Give targets whose catalog says neither reduction nor redshift."""
    dtypes, frame = frame.dtypes, frame.copy()
    if run2d:
        frame["run2d"], frame["specobjid"] = "", np.uint64(0)
        frame["target"] = "/" + frame["target"].str.split("/").str[1]
    if z:
        frame["z"] = frame["z_err"] = np.float32("nan")
    return frame.astype(dtypes)


def rows(frame: pd.DataFrame, *keys: str) -> pd.DataFrame:
    return frame[frame["target"].isin(keys)].reset_index(drop=True)


def moved(frame: pd.DataFrame, plate: int, mjd: int, fiberid: int) -> pd.DataFrame:
    """Give one target of another plate, with nothing known."""
    made = without(frame.iloc[:1])
    return made.assign(target=f"/{plate}-{mjd}-{fiberid}", plate=plate, mjd=mjd, fiberid=fiberid).astype(frame.dtypes)


def place_file(mirror: Path, root: Path, name: str, path: str) -> None:
    """Put a real file of the mirror at another path."""
    (found,) = mirror.rglob(name)
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(found, root / path)


# --- what real files decide ---


@pytest.mark.parametrize("over", ["a disk", pytest.param("the network", marks=pytest.mark.slow)])
def test_reductions_and_redshifts_of_real_targets_are_those_of_their_catalog(
    real: pd.DataFrame, mirror: Path, over: str
):
    if over == "a disk":
        found = settle(without(real), SDSS, str(mirror))
    else:
        with served(mirror) as url:
            found = settle(without(real), SDSS, f"{url}/")
    pd.testing.assert_frame_equal(found.frame.drop(columns="z_err"), real.drop(columns="z_err"))
    np.testing.assert_allclose(found.frame["z_err"], real["z_err"], rtol=1e-5)
    where = str(mirror) if over == "a disk" else f"{url}/"
    assert found.lines == [
        f"run2d 26 for 60 plates by their files at {where}",
        f"run2d v5_13_0 for 1 plate by its file at {where}",
        f"run2d v5_13_2 for 7 plates by their files at {where}",
        f"run2d v5_9_0 for 19 plates by their files at {where}",
        f"z of 117 targets from their files at {where}",
    ]


def test_what_was_decided_is_a_table(real: pd.DataFrame, mirror: Path):
    found = settle(without(real, z=False), SDSS, str(mirror))
    assert found.decided.columns.tolist() == ["plate", "mjd", "run2d", "targets", "file"]
    assert found.decided["targets"].sum() == 117
    assert not found.decided.duplicated(["plate", "mjd"]).any()
    assert all((mirror / file).is_file() for file in found.decided["file"])
    assert found.lines[-1].startswith("run2d")  # every z was known


@pytest.mark.slow
def test_one_file_of_a_plate_and_night_is_asked_for(real: pd.DataFrame, mirror: Path):
    plates = real[["plate", "mjd"]].drop_duplicates()
    with served(mirror) as url:
        settle(without(real, z=False), SDSS, url)
    assert len(plates) < 117
    files = {(path.split("/")[4], path.split("/spec-")[1].split(".")[0]) for path in Recording.asked}
    assert len([run2d for run2d, _ in files if run2d == "26"]) <= (plates["plate"] < 3510).sum()
    of_boss = (plates["plate"] >= 3510).sum()
    assert len(files) <= len(plates) + 3 * of_boss  # v5_13_2, v5_13_0, v5_10_0, v5_9_0, each where mirrors may have it


def test_nothing_is_asked_where_nothing_is_open(real: pd.DataFrame):
    found = settle(real, SDSS, "http://127.0.0.1:9")  # nothing listens there
    pd.testing.assert_frame_equal(found.frame, real)
    assert found.lines == []
    assert len(found.decided) == 0


def test_what_the_catalog_says_stays(real: pd.DataFrame, mirror: Path):
    half = len(real) // 2
    frame = pd.concat([without(real.iloc[:half]), real.iloc[half:].assign(z=np.float32(0.5))], ignore_index=True)
    found = settle(frame, SDSS, str(mirror)).frame
    assert (found["z"].iloc[half:] == np.float32(0.5)).all()
    np.testing.assert_array_equal(found["z"].iloc[:half], real["z"].iloc[:half])
    assert found["target"].tolist() == real["target"].tolist()


def test_a_target_without_its_file_has_no_redshift_and_its_plate_a_reduction(real: pd.DataFrame, mirror: Path):
    known = rows(real, real["target"].iloc[0])
    numbers = known.iloc[0]
    absent = moved(real, numbers["plate"], numbers["mjd"], 640)
    first = moved(real, numbers["plate"], numbers["mjd"], 639)
    frame = pd.concat([first, absent, without(known)], ignore_index=True)
    found = settle(frame, SDSS, str(mirror))
    assert found.frame["run2d"].tolist() == ["26"] * 3
    assert np.isnan(found.frame["z"]).tolist() == [True, True, False]
    plate = f"{numbers['plate']}-{numbers['mjd']}"
    assert found.lines[1:] == [
        f"z of 1 target from their files at {mirror}",
        f"z of 2 targets stays unknown, and they get no latents: the source has no file of it (26/{plate}-639)",
    ]


def test_a_file_of_another_target_gives_no_redshift(real: pd.DataFrame, mirror: Path, tmp_path: Path):
    path = "sdss/spectro/redux/26/spectra/lite/0300/spec-0300-51666-0001.fits"
    place_file(mirror, tmp_path, next(mirror.rglob("spec-*.fits")).name, path)
    found = settle(moved(real, 300, 51666, 1), SDSS, str(tmp_path))
    assert np.isnan(found.frame["z"]).all()
    assert "stays unknown" in found.lines[-1]
    assert "the file holds" in found.lines[-1]


def test_a_file_without_a_table_has_no_redshift(real: pd.DataFrame, mirror: Path, tmp_path: Path):
    path = "sdss/spectro/redux/26/spectra/lite/0300/spec-0300-51666-0001.fits"
    name = next(mirror.rglob("spec-*.fits")).name
    place_file(mirror, tmp_path, name, path)
    whole = (tmp_path / path).read_bytes()
    second = whole.index(b"XTENSION", whole.index(b"XTENSION") + 80)
    (tmp_path / path).write_bytes(whole[:second])
    found = settle(moved(real, 300, 51666, 1), SDSS, str(tmp_path))
    assert found.lines[-1] == (
        "z of 1 target stays unknown, and they get no latents: the file has no redshift (26/300-51666-1)"
    )


# --- candidates and their order ---


@pytest.mark.parametrize("run2d", ["104", "26", "103"])
def test_the_source_decides_among_the_reductions_of_a_plate(
    real: pd.DataFrame, mirror: Path, tmp_path: Path, run2d: str
):
    path = f"sdss/spectro/redux/{run2d}/spectra/lite/3306/spec-3306-54922-0491.fits"
    place_file(mirror, tmp_path, next(mirror.rglob("spec-*.fits")).name, path)
    with served(tmp_path) as url:
        found = settle(moved(real, 3306, 54922, 491).assign(z=np.float32(0)), SDSS, f"{url}/")
    assert found.frame["target"].tolist() == [f"{run2d}/3306-54922-491"]
    assert found.decided["file"].tolist() == [path]
    assert found.frame["specobjid"].iloc[0] >> np.uint64(10) & np.uint64(2**14 - 1) == int(run2d)


def test_a_mirrors_own_reduction_is_found_on_a_disk(real: pd.DataFrame, mirror: Path, tmp_path: Path):
    path = "eboss/spectro/redux/master/spectra/lite/6177/spec-6177-56268-0595.fits"
    place_file(mirror, tmp_path, next(mirror.rglob("spec-*.fits")).name, path)
    found = settle(moved(real, 6177, 56268, 595).assign(z=np.float32(2)), SDSS, str(tmp_path))
    assert found.frame["target"].tolist() == ["master/6177-56268-595"]


def test_plates_of_which_no_file_is_found_are_refused(real: pd.DataFrame, mirror: Path):
    frame = pd.concat([without(real), moved(real, 3306, 54922, 491), moved(real, 3307, 54970, 2)], ignore_index=True)
    with served(mirror) as url, pytest.raises(RefusedError) as error:
        settle(frame, SDSS, url)
    units = len(real[["plate", "mjd"]].drop_duplicates()) + 2
    assert str(error.value) == (
        f"{url} has no file of plate 3306, mjd 54922 (run2d 104, 26, 103 tried), nor of 1 more of {units} plates; give "
        "the run2d by --run2d NAME or a column, name the archive that has it by --source, or leave the plate out with "
        "--where"
    )


def test_a_given_reduction_of_which_no_file_is_found_is_refused(real: pd.DataFrame, mirror: Path):
    frame = without(rows(real, real["target"].iloc[0]), run2d=False)
    frame["target"], frame["run2d"] = frame["target"].str.replace("26/", "103/"), "103"
    with pytest.raises(RefusedError, match=r"has no file of plate \d+, mjd \d+ \(run2d 103 tried\)"):
        settle(frame, SDSS, str(mirror))


def test_a_suggested_reduction_is_kept_where_it_has_a_file(real: pd.DataFrame, mirror: Path):
    found = settle(real, SDSS, str(mirror), suggested=np.ones(len(real), np.bool_))
    pd.testing.assert_frame_equal(found.frame, real)
    assert found.lines[0] == f"run2d 26 for 60 plates by their files at {mirror}"


def test_a_suggested_reduction_without_a_file_gives_way(real: pd.DataFrame, mirror: Path):
    of_boss = real["run2d"].str.startswith("v5").to_numpy()
    old = real[of_boss].assign(run2d="v5_7_0", specobjid=np.uint64(1)).reset_index(drop=True)
    old["target"] = ("v5_7_0/" + old["target"].str.split("/").str[1]).astype(real["target"].dtype)
    old = old.astype(real.dtypes)
    found = settle(old, SDSS, str(mirror), suggested=np.ones(len(old), np.bool_))
    pd.testing.assert_frame_equal(found.frame, real[of_boss].reset_index(drop=True))
    assert f"run2d v5_13_2 for 7 plates by their files at {mirror} (the ids say v5_7_0, which has no file there)" in (
        found.lines
    )


def test_a_survey_without_reductions_and_errors_has_its_redshifts_looked_for(tmp_path: Path):
    (tmp_path / "nights" / "n1").mkdir(parents=True)
    (tmp_path / "nights" / "n1" / "7.txt").write_text("7\n5000 1 1 0\n5002 1 1 0\n")
    frame = pd.DataFrame({"target": ["n1:7", "n1:8", "n1:9"], "z": np.array([np.nan, 0.1, np.nan], np.float32)})
    found = settle(frame, TOY, str(tmp_path))
    assert found.lines == [
        "z of 1 target stays unknown, and they get no latents: the file has no redshift (n1:7)",
        "z of 1 target stays unknown, and they get no latents: the source has no file of it (n1:9)",
    ]
    pd.testing.assert_frame_equal(found.frame, frame)
    assert settle(frame, TOY, fetch=False).lines == [
        "z of 2 targets stays unknown, and they get no latents: no archive was asked"
    ]


# --- reductions that are given ---


def ask(
    frame: pd.DataFrame, source: str | None, reduction: str = "auto", layout: str | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """Settle as `targets` does, with a catalog that has redshifts and suggests nothing."""
    return settling(SDSS, reduction, source, layout, True, None)(frame, np.zeros(len(frame), np.bool_), True)


def given(frame: pd.DataFrame, run2d: str) -> pd.DataFrame:
    """Give targets as a catalog says them that has another reduction."""
    numbers = frame["target"].str.split("/").str[1]
    return frame.assign(run2d=run2d, target=run2d + "/" + numbers).astype(frame.dtypes)


def test_a_named_source_has_a_file_of_every_reduction_that_the_catalog_gives(real: pd.DataFrame, mirror: Path):
    frame, lines = ask(real, str(mirror))
    pd.testing.assert_frame_equal(frame, real)
    assert lines == []
    wrong = pd.concat([real.iloc[1:], given(real.iloc[:1], "27")], ignore_index=True)
    with pytest.raises(RefusedError) as error:
        ask(wrong, str(mirror))
    plate, mjd = real[["plate", "mjd"]].iloc[0]
    assert str(error.value) == (
        f"{mirror} has no file of plate {plate}, mjd {mjd} (run2d 27 tried); correct the run2d, name the archive that "
        "has it by --source, or leave the plate out with --where"
    )


def test_the_default_archive_is_not_asked_about_complete_rows(real: pd.DataFrame, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(socket, "create_connection", None)
    monkeypatch.setattr(socket.socket, "connect", None)
    frame, lines = ask(given(real, "27"), None)
    assert set(frame["run2d"]) == {"27"}
    assert lines == []


@pytest.mark.slow
def test_of_a_plate_whose_reduction_is_given_one_file_is_enough(real: pd.DataFrame, mirror: Path):
    key = real["target"].iloc[0]
    known = rows(real, key)
    plate, mjd = known[["plate", "mjd"]].iloc[0]
    absent = [given(moved(real, plate, mjd, fiberid).assign(z=np.float32(0.1)), "26") for fiberid in range(632, 640)]
    frame = pd.concat([*absent, known], ignore_index=True)
    assert len(ask(frame, str(mirror))[0]) == 9
    with served(mirror) as url:
        ask(known, url)
    assert len(Recording.asked) <= 2  # whether it answers, and its one file


def test_a_reduction_by_name_is_looked_for_at_a_named_source(real: pd.DataFrame, mirror: Path):
    legacy = without(real[real["run2d"] == "26"].reset_index(drop=True), z=False)
    units = len(legacy[["plate", "mjd"]].drop_duplicates())
    with pytest.raises(RefusedError) as error:
        ask(legacy, str(mirror), "27")
    assert f" (run2d 27 tried), nor of {units - 1} more of {units} plates; correct the run2d, " in str(error.value)


@pytest.mark.parametrize("name", ["26", "26.0", " 26 ", "026"])
def test_a_reduction_by_name_is_read_as_a_catalogs_values_are(real: pd.DataFrame, mirror: Path, name: str):
    legacy = real[real["run2d"] == "26"].reset_index(drop=True)
    frame, lines = ask(without(legacy, z=False), str(mirror), name)
    pd.testing.assert_frame_equal(frame, legacy)
    assert lines == [f"run2d 26 for {len(legacy)} targets, as given"]


@pytest.mark.parametrize("name", ["AUTO", " Auto "])
def test_auto_is_a_word_in_any_case(real: pd.DataFrame, mirror: Path, name: str):
    pd.testing.assert_frame_equal(ask(without(real, z=False), str(mirror), name)[0], real)


@pytest.mark.parametrize("name", ["", "none", "../26", "26/103", "two words"])
def test_what_is_no_reduction_is_refused_before_the_catalog_is_read(name: str):
    with pytest.raises(ConfigError) as error:
        settling(SDSS, name, None, None, True, None)
    assert str(error.value) == f"--run2d is {name!r}, expected the name of a reduction, such as 26 or v5_13_2"


def test_a_survey_without_reductions_takes_none():
    settling(TOY, "auto", None, None, True, None)
    with pytest.raises(RefusedError, match="targets of toy have no reduction; leave it out"):
        settling(TOY, "26", None, None, True, None)


# --- redshifts that are none ---


@pytest.mark.parametrize("none", [-9999, -1, np.inf, np.nan])
def test_a_number_in_the_place_of_no_redshift_is_replaced(real: pd.DataFrame, mirror: Path, none: float):
    frame = real.copy()
    frame.loc[3, ["z", "z_err"]] = np.float32(none), np.float32(none)
    frame.loc[4, "z"] = np.float32(-0.9)  # of a galaxy that comes near, if any
    found, lines = ask(frame.astype(real.dtypes), str(mirror))
    assert found["z"].iloc[3] == real["z"].iloc[3]
    np.testing.assert_allclose(found["z_err"].iloc[3], real["z_err"].iloc[3], rtol=1e-5)
    assert found["z"].iloc[4] == np.float32(-0.9)
    assert lines == [f"z of 1 target from their files at {mirror}"]


# --- layouts ---


def test_a_layout_that_the_source_lacks_is_named(real: pd.DataFrame, mirror: Path):
    with pytest.raises(RefusedError) as error:
        ask(without(real.iloc[:1]), str(mirror), layout="spPlate")
    assert " tried, layout spPlate); give the run2d by --run2d NAME or a column, name another --layout or " in str(
        error.value
    )


def test_full_files_are_read_by_their_beginning(real: pd.DataFrame, mirror: Path, shared_data: Path, tmp_path: Path):
    (full,) = (shared_data / "odd").glob("full-with-exposures-*.fits")
    plate, mjd, fiberid = (int(part) for part in full.stem.split("spec-")[1].split("-"))
    path = f"sdss/spectro/redux/26/spectra/full/{plate:04d}/spec-{plate:04d}-{mjd}-{fiberid:04d}.fits"
    (tmp_path / path).parent.mkdir(parents=True)
    shutil.copy(full, tmp_path / path)
    found = settle(moved(real, plate, mjd, fiberid), SDSS, str(tmp_path), "spec")
    assert found.frame["target"].tolist() == [f"26/{plate}-{mjd}-{fiberid}"]
    assert np.isfinite(found.frame["z"]).all()


def test_files_of_whole_plates_decide_the_reduction_and_spec_lite_files_the_redshift(
    real: pd.DataFrame, mirror: Path, tmp_path: Path
):
    key = real["target"].iloc[0]
    numbers = rows(real, key).iloc[0]
    name = f"spec-{numbers['plate']:04d}-{numbers['mjd']}-{numbers['fiberid']:04d}.fits"
    folder = "sdss/spectro/redux/26"
    place_file(mirror, tmp_path, name, f"{folder}/spectra/lite/{numbers['plate']:04d}/{name}")
    plate = f"{folder}/{numbers['plate']:04d}/spPlate-{numbers['plate']:04d}-{numbers['mjd']}.fits"
    place_file(mirror, tmp_path, name, plate)
    found = settle(without(rows(real, key)), SDSS, str(tmp_path), "spPlate")
    assert found.decided["file"].tolist() == [plate]
    assert found.frame["z"].tolist() == [numbers["z"]]


# --- single files that do not come ---

FAULTS = {"empty": b"", "page": b"<html>busy</html>", "503": 503, "403": 403, "text": b"no FITS"}


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
        "z of 1 target stays unknown, and they get no latents: 403 Forbidden (n1:7)",
        "z of 1 target stays unknown, and they get no latents: the file has no redshift (n1:8)",
    ]


# --- without the archive, or with a bad one ---


def test_a_folder_that_does_not_exist_is_said_to_be_so(real: pd.DataFrame, tmp_path: Path):
    with pytest.raises(ConfigError) as error:
        ask(without(real), str(tmp_path / "nowhere"))
    assert str(error.value) == f"source is '{tmp_path / 'nowhere'}', expected a folder that exists"


def test_without_an_archive_the_rule_decides_and_redshifts_stay_unknown(real: pd.DataFrame):
    found = settle(without(real), SDSS, fetch=False)
    assert found.lines == [
        "run2d 26 for 60 plates by rule alone: no archive was asked",
        "run2d v5_13_2 for 27 plates by rule alone: no archive was asked",
        "z of 117 targets stays unknown, and they get no latents: no archive was asked",
    ]
    assert found.frame["z"].isna().all()
    assert set(found.decided["file"]) == {""}
    legacy = (real["run2d"] == "26").to_numpy()
    assert found.frame["target"][legacy].tolist() == real["target"][legacy].tolist()
    np.testing.assert_array_equal(found.frame["specobjid"][legacy], real["specobjid"][legacy])
    assert (found.frame["run2d"][~legacy] == "v5_13_2").all()


def test_without_asking_the_archive_its_release_still_names_the_rule(real: pd.DataFrame):
    target = moved(real, 3655, 55240, 714)
    for url, run2d in (
        ("https://data.sdss.org/sas/dr16", "v5_13_0"),
        ("s3://mirror/dr12", "v5_7_0"),
        (None, "v5_13_2"),
    ):
        assert settle(target, SDSS, url, fetch=False).frame["run2d"].tolist() == [run2d]


def test_without_an_archive_a_suggestion_is_taken(real: pd.DataFrame):
    found = settle(real, SDSS, fetch=False, suggested=np.ones(len(real), np.bool_))
    pd.testing.assert_frame_equal(found.frame, real)
    assert found.lines[0] == "run2d 26 for 60 plates as the ids say: no archive was asked"


def test_the_targets_given_are_left_alone(real: pd.DataFrame, mirror: Path):
    frame = without(real)
    before = frame.copy()
    settle(frame, SDSS, str(mirror))
    pd.testing.assert_frame_equal(frame, before)


@pytest.mark.slow
def test_no_network_is_said_within_20_seconds(real: pd.DataFrame):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    told: list[tuple[str, int, int]] = []
    start = time.monotonic()
    with pytest.raises(ConfigError) as error:
        settle(without(real), SDSS, f"http://127.0.0.1:{port}", progress=lambda *step: told.append(step))
    assert time.monotonic() - start < 20
    assert f"source is 'http://127.0.0.1:{port}', expected an archive that answers" in str(error.value)
    assert str(error.value).endswith("with --no-fetch")
    assert told[0][0] == f"files looked for at http://127.0.0.1:{port}"


@pytest.mark.slow
def test_faults_that_pass_change_nothing(real: pd.DataFrame, mirror: Path):
    with served(mirror, faults=20) as url:
        found = settle(without(real), SDSS, f"{url}/")
    pd.testing.assert_frame_equal(found.frame.drop(columns="z_err"), real.drop(columns="z_err"))


def test_progress_counts_plates_and_files(real: pd.DataFrame, mirror: Path):
    steps: list[tuple[str, int, int]] = []
    found: Settled = settle(without(real), SDSS, str(mirror), progress=lambda *step: steps.append(step))
    units = len(found.decided)
    assert ("plates with their reduction", units, units) in steps
    assert [step for step in steps if step[0] == "redshifts from files"] == [
        ("redshifts from files", 100, 117),
        ("redshifts from files", 117, 117),
    ]


@pytest.mark.slow
def test_files_are_kept_in_a_cache(real: pd.DataFrame, mirror: Path, tmp_path: Path):
    with served(mirror) as url:
        settle(without(real), SDSS, f"{url}/", cache=str(tmp_path))
    assert len(list(tmp_path.rglob("spec-*.fits"))) == 117
