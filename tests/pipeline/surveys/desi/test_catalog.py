from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from pipeline.catalog import targets
from pipeline.errors import ConfigError
from pipeline.mock.coadds import write_coadds, write_zall
from pipeline.surveys.desi.survey import DESI
from tests import desi_release

HEADER = "TARGETID,SURVEY,PROGRAM,HEALPIX,Z,ZERR,ZWARN,SPECTYPE,DELTACHI2,TARGET_RA,TARGET_DEC"
ROW = "39628473198710603,MAIN,dark,27247,0.25,1e-5,4,GALAXY,7.5,10.5,-3.25"


def csv(folder: Path, *rows: str, header: str = HEADER) -> str:
    (folder / "c.csv").write_text("\n".join([header, *rows]) + "\n")
    return str(folder / "c.csv")


def test_the_columns_of_zall_get_our_names(tmp_path: Path) -> None:
    (found,) = targets.read_targets(csv(tmp_path, ROW), survey=DESI).to_dict("records")
    assert found == {
        "target": "main-dark-27247-39628473198710603",
        "targetid": 39628473198710603,
        "survey": "main",
        "program": "dark",
        "healpix": 27247,
        "ra": 10.5,
        "dec": -3.25,
        "z": 0.25,
        "z_err": pytest.approx(1e-5),
        "zwarning": 4,
        "class": "GALAXY",
        "delta_chi2": 7.5,
    }


def test_rows_are_sorted_by_file_then_by_number(tmp_path: Path) -> None:
    rows = [ROW.replace("27247", "999"), ROW, ROW.replace("MAIN", "sv3"), ROW.replace("39628473198710603", "5")]
    found = targets.read_targets(csv(tmp_path, *rows), survey=DESI)["target"].tolist()
    assert found == [
        "main-dark-999-39628473198710603",
        "main-dark-27247-5",
        "main-dark-27247-39628473198710603",
        "sv3-dark-27247-39628473198710603",
    ]


def test_a_redrock_file_gives_what_its_header_and_fibermap_say(shared_data: Path) -> None:
    file = desi_release.release_of(shared_data) / desi_release.REDROCK
    found = targets.find_targets(str(file), survey=DESI, keep=["EBV"])
    with fits.open(file) as hdus:
        best, fibermap = hdus["REDSHIFTS"].data[0], hdus["FIBERMAP"].data[0]
    row = found.frame.iloc[0]
    assert row["target"] == desi_release.KEY
    assert (row["z"], row["z_err"]) == (np.float32(best["Z"]), np.float32(best["ZERR"]))
    assert (row["zwarning"], row["class"]) == (best["ZWARN"], best["SPECTYPE"])
    assert (row["ra"], row["dec"]) == (fibermap["TARGET_RA"], fibermap["TARGET_DEC"])
    assert row["EBV"] == fibermap["EBV"]


def test_redrock_files_and_zall_give_the_same_targets(tmp_path: Path) -> None:
    made = write_coadds(tmp_path, desi_release.restframes, 7, per_file=3)
    zall = targets.read_targets(str(write_zall(made, tmp_path)), survey=DESI)
    pattern = f"{tmp_path}/spectro/redux/iron/healpix/*/*/*/*/redrock-*.fits"
    assert targets.read_targets(pattern, survey=DESI).equals(zall)
    assert len(zall) == 7


def test_a_fibermap_of_other_targets_is_refused(shared_data: Path, tmp_path: Path) -> None:
    with fits.open(desi_release.release_of(shared_data) / desi_release.REDROCK) as hdus:
        hdus["FIBERMAP"].data["TARGETID"] += 1
        hdus.writeto(tmp_path / "redrock.fits")
    with pytest.raises(ConfigError, match="two tables of the file differ in TARGETID"):
        targets.read_targets(str(tmp_path / "redrock.fits"), survey=DESI)


def test_a_list_of_keys_is_a_catalog(tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text(f"{desi_release.KEY}\nmain-dark-1-2\n")
    found = targets.find_targets(
        str(tmp_path / "keys.txt"), survey=DESI, settle=lambda frame, suggested, has_z: (frame, ())
    ).frame
    assert found["targetid"].tolist() == [2, 39089837499744649]
    assert np.isnan(found["z"]).all()
    assert (found["zwarning"] == -1).all()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ROW.replace("27247", "49152"), "pixels below 49152, nside 64"),
        (ROW.replace("dark", "../dark"), "the name of a program, such as dark or bright"),
        (ROW.replace("39628473198710603", "3.96E+16"), "expected whole numbers"),
        (ROW.replace("39628473198710603", "-1"), "1 of 1 rows of .* has no TARGETID"),
        (ROW.replace("MAIN", ""), "1 of 1 rows of .* has no SURVEY"),
        (ROW.replace("0.25", "far"), "expected numbers"),
    ],
)
def test_ids_that_are_none_are_refused(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        targets.read_targets(csv(tmp_path, row), survey=DESI)


@pytest.mark.parametrize("line", ["main-dark-1-9223372036854775808", "main-dark-49152-1"])
def test_a_list_with_a_key_that_is_none_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "keys.txt").write_text(f"main-dark-1-2\n{line}\n")
    with pytest.raises(ConfigError):
        targets.read_targets(str(tmp_path / "keys.txt"), survey=DESI)


@pytest.mark.parametrize("name", sorted(DESI.selections))
def test_every_ready_made_selection_chooses_some_of_a_release(tmp_path: Path, name: str) -> None:
    program = "bright" if name == "bgs" else "dark"
    zall = write_zall(write_coadds(tmp_path, desi_release.restframes, 60, program=program), tmp_path)
    found = targets.find_targets(str(zall), DESI.selections[name], survey=DESI)
    assert 0 < len(found.frame) < 60
    assert (found.frame["zwarning"] == 0).all()
    if name in ("stars", "qso"):
        assert set(found.frame["class"]) == {"STAR" if name == "stars" else "QSO"}
