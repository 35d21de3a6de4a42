from __future__ import annotations

import shutil
import socket
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.compute.settle import Settled, settle, settling
from pipeline.errors import ConfigError, RefusedError
from pipeline.surveys.registry import get_survey
from tests.archive_folder import Recording, moved, place_file, rows, served, without
from tests.toy_survey import TOY

SDSS = get_survey("sdss")


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
        f"z of 2 targets stays unknown; some models need it: the source has no file of it (26/{plate}-639)",
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
        "z of 1 target stays unknown; some models need it: the file has no redshift (26/300-51666-1)"
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
    assert found.frame["specobjid"].iloc[0] >> np.uint64(10) & np.uint64(2**14 - 1) == int(run2d)


def test_a_mirrors_own_reduction_is_found_on_a_disk(real: pd.DataFrame, mirror: Path, tmp_path: Path):
    path = "eboss/spectro/redux/master/spectra/lite/6177/spec-6177-56268-0595.fits"
    place_file(mirror, tmp_path, next(mirror.rglob("spec-*.fits")).name, path)
    found = settle(moved(real, 6177, 56268, 595).assign(z=np.float32(2)), SDSS, str(tmp_path))
    assert found.frame["target"].tolist() == ["master/6177-56268-595"]


@pytest.mark.slow
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
        "z of 1 target stays unknown; some models need it: the file has no redshift (n1:7)",
        "z of 1 target stays unknown; some models need it: the source has no file of it (n1:9)",
    ]
    pd.testing.assert_frame_equal(found.frame, frame)
    assert settle(frame, TOY, fetch=False).lines == [
        "z of 2 targets stays unknown; some models need it: no archive was asked"
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
    assert found.frame["z"].tolist() == [numbers["z"]]


# --- single files that do not come ---


def test_a_folder_that_does_not_exist_is_said_to_be_so(real: pd.DataFrame, tmp_path: Path):
    with pytest.raises(ConfigError) as error:
        ask(without(real), str(tmp_path / "nowhere"))
    assert str(error.value) == f"source is '{tmp_path / 'nowhere'}', expected a folder that exists"


def test_without_an_archive_the_rule_decides_and_redshifts_stay_unknown(real: pd.DataFrame):
    found = settle(without(real), SDSS, fetch=False)
    assert found.lines == [
        "run2d 26 for 60 plates by rule alone: no archive was asked",
        "run2d v5_13_2 for 27 plates by rule alone: no archive was asked",
        "z of 117 targets stays unknown; some models need it: no archive was asked",
    ]
    assert found.frame["z"].isna().all()
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
    units = len(found.frame[["plate", "mjd"]].drop_duplicates())
    assert ("plates with their reduction", units, units) in steps
    assert [step for step in steps if step[0] == "redshifts from files"] == [
        ("redshifts from files", 100, 117),
        ("redshifts from files", 117, 117),
    ]
