"""`targets` on catalogs as people have them: what the EXPECTED.md beside these says of each."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table

from pipeline.catalog.targets import count, find_targets, read_rows
from pipeline.cli.main import main
from pipeline.errors import ExitStatus

TWO = [("26/266-51602-1", 0.02127545), ("26/266-51602-162", 0.06331611)]
GOOD = {
    "photz.csv": ([("26/266-51602-1", 0.02127545)], "z from column redshift, not z"),
    "dupz.csv": ([("26/266-51602-1", 0.0212)], "z from column z_2, not z"),
    "kaggle_run2d.csv": (
        [
            ("26/287-52023-513", 0.1231112),
            ("26/288-52000-400", 0.04050813),
            ("26/323-51615-541", -5.49e-05),
            ("26/3306-54922-491", -8.96e-06),
        ],
        "z from column redshift, not z",
    ),
    "run2d_float.csv": (TWO, "z from column z"),
    "bom_table1.csv": (TWO, "z from column z"),
    "ok.vot": (TWO, "z from column z"),
    "ok.ecsv": (TWO, "z from column z"),
    "v.csv": (
        [
            ("v6_0_4/15170-59292-4375924486", 0.51),
            ("v6_0_6/17057-59631-27021598108289694", 0.51),
            ("v6_1_3/17057-59631-27021598108289694", 0.51),
        ],
        "z from column Z",
    ),
    "dr12.csv": ([("v5_7_0/4455-55539-692", 1e-6)], "z from column z"),
}


class Done(NamedTuple):
    status: int
    out: str
    err: str
    targets: pd.DataFrame | None


@pytest.fixture
def cases(shared_data: Path) -> Path:
    """Give the folder of small catalogs beside the real spectra."""
    folder = shared_data.parent / "cases"
    if not (folder / "EXPECTED.md").is_file():
        pytest.skip(f"no catalogs as people have them in {folder}")
    return folder


@pytest.fixture
def select(cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def selected(name: str, *options: str) -> Done:
        table = tmp_path / "targets.parquet"
        table.unlink(missing_ok=True)
        status = main(["targets", str(cases / name), "--output", str(table), *options])
        printed = capsys.readouterr()
        rows = read_rows(str(table), 0, count(str(table))) if table.exists() else None
        return Done(status, printed.out, printed.err, rows)

    return selected


@pytest.mark.parametrize("name", GOOD)
def test_catalogs_become_the_targets_that_they_list(select, name: str) -> None:
    expected, said = GOOD[name]
    done = select(name)
    assert done.status == 0, done.err
    assert said in done.out.splitlines()
    assert sorted(zip(done.targets["target"], done.targets["z"], strict=True)) == sorted(
        (key, np.float32(z)) for key, z in expected
    )


def test_ids_that_lost_their_digits_are_composed_and_this_is_said_once(select) -> None:
    done = select("kaggle_run2d.csv")
    assert done.out.count("3.72E+18") == 1
    assert [line.split()[0] for line in done.out.splitlines() if "3.72E+18" in line] == ["4"]
    first = done.targets.set_index("target").loc["26/287-52023-513", "specobjid"]
    assert first == (287 << 50) + (513 << 38) + ((52023 - 50000) << 24) + (26 << 10)


def test_ids_of_skyserver_are_kept_as_they_are(select) -> None:
    assert select("ok.vot").targets["specobjid"].tolist() == [299489676975171584, 299533932318189568]


def test_minus_one_is_missing_and_the_id_says_the_rest(select) -> None:
    done = select("neg.csv")
    assert done.targets["target"].tolist() == ["26/266-51602-1", "26/266-51602-162"]
    assert "1 named by their specObjID, which PLATE, MJD and FIBERID are taken from" in done.out


def test_rows_with_minus_one_and_no_usable_id_are_refused_by_their_number_or_left_out(
    cases: Path, select, tmp_path: Path
) -> None:
    frame = pd.read_csv(cases / "neg.csv", dtype=str)
    column = next(name for name in frame if name.lower() == "specobjid")
    frame.loc[frame["plate"] == "-1", column] = "12345"
    frame.to_csv(tmp_path / "neg.csv", index=False)
    done = select(str(tmp_path / "neg.csv"))
    assert done.status == ExitStatus.REFUSED
    assert "1 of 2 rows of " in done.err
    assert "has no plate, mjd, fiberID; leave them out with --skip-incomplete" in done.err
    assert done.targets is None
    done = select(str(tmp_path / "neg.csv"), "--skip-incomplete")
    assert done.targets["target"].tolist() == ["26/266-51602-162"]
    assert "1 left out, without the ids of a spectrum (--skip-incomplete)" in done.out


def test_epoch_coadds_are_refused_by_name(select) -> None:
    done = select("sdss5_epoch.csv")
    assert done.status == ExitStatus.REFUSED
    assert "FIELD is allFPS in 1 of the rows" in done.err
    assert "epoch coadds of SDSS-V are not read" in done.err


SETTLED = {
    "kaggle.csv": ["104/3306-54922-491", "26/287-52023-513", "26/288-52000-400", "26/323-51615-541"],
    "xid.csv": ["26/751-52251-160"],
    "vizier.csv": ["v5_13_2/6177-56268-595"],
    "dr16q.fits": ["v5_13_2/3655-55240-714", "v5_13_2/3655-55240-864"],
}


@pytest.mark.parametrize("name", SETTLED)
def test_a_reduction_is_by_rule_where_no_archive_is_asked(select, name: str) -> None:
    done = select(name, "--no-fetch", "--skip-incomplete")
    assert done.status == 0, done.err
    assert done.targets["target"].tolist() == SETTLED[name]
    assert "by rule alone: no archive was asked" in done.out
    assert 0 < np.abs(done.targets["z"]).min()
    assert done.targets["z"].max() < 7


def test_the_release_of_a_source_names_the_rule(select) -> None:
    done = select("dr16q.fits", "--skip-incomplete", "--no-fetch", "--source", "https://data.sdss.org/sas/dr16")
    assert done.targets["target"].tolist() == ["v5_13_0/3655-55240-714", "v5_13_0/3655-55240-864"]


def test_rows_of_dr16q_without_ids_are_counted(select) -> None:
    done = select("dr16q.fits", "--no-fetch")
    assert done.status == ExitStatus.REFUSED
    assert "1 of 3 rows of " in done.err
    assert "has no PLATE, MJD, FIBERID" in done.err


def test_an_id_of_dr7_is_said_to_be_so_and_composed_anew(select) -> None:
    done = select("xid.csv", "--no-fetch")
    assert "1 with a specobjid of DR7 or before: composed again from PLATE, MJD, FIBERID and RUN2D" in done.out
    assert done.targets["specobjid"].tolist() == [(751 << 50) + (160 << 38) + (2251 << 24) + (26 << 10)]


@pytest.mark.parametrize("name", ["xid.csv", "ok.ecsv"])
def test_an_id_alone_is_enough(cases: Path, select, tmp_path: Path, name: str) -> None:
    """Of DR7 and of later releases; the id of another spectrum than the row's is never followed."""
    whole = select(name, "--no-fetch").targets
    read = pd.read_csv if name.endswith("csv") and name != "ok.ecsv" else _ecsv
    frame = read(cases / name)
    column = next(each for each in frame if each.lower() == "specobjid")
    frame[[column, "z"]].to_csv(tmp_path / "ids.csv", index=False)
    done = select(str(tmp_path / "ids.csv"), "--no-fetch")
    assert done.status == 0, done.err
    assert done.targets["target"].tolist() == whole["target"].tolist()
    frame[[column, "z"]].assign(plate=999, mjd=52000, fiberid=7).to_csv(tmp_path / "other.csv", index=False)
    done = select(str(tmp_path / "other.csv"), "--no-fetch")
    assert done.status == ExitStatus.REFUSED
    assert "but the row says plate 999, mjd 52000, fiberid 7" in done.err


def _ecsv(path: Path) -> pd.DataFrame:
    return Table.read(path, format="ascii.ecsv").to_pandas()


def test_a_list_of_keys_is_settled_at_a_mirror(select, shared_data: Path, tmp_path: Path) -> None:
    """Reductions of every kind, z and its error are those of the mirror's own catalog."""
    mirror = shared_data / "sas" / "dr17"
    real = find_targets(str(mirror / "sdss" / "spectro" / "redux" / "specObj-dr17.fits")).frame
    numbers = real["target"].str.split("/").str[1]
    (tmp_path / "mine.txt").write_text("# plate-mjd-fiber\n\n" + "\n".join(numbers) + "\n")
    done = select(str(tmp_path / "mine.txt"), "--source", str(mirror))
    assert done.status == 0, done.err
    assert f"z of {len(real)} targets from their files at {mirror}" in done.out
    for name in ("target", "specobjid", "plate", "mjd", "fiberid", "run2d", "z"):
        assert done.targets[name].tolist() == real[name].tolist(), name
    np.testing.assert_allclose(done.targets["z_err"], real["z_err"], rtol=1e-6)
    done = select(str(tmp_path / "mine.txt"), "--no-fetch")
    assert f"z of {len(real)} targets stays unknown; some models need it: no archive was asked" in done.out


def test_a_reduction_is_given_by_name(select) -> None:
    done = select("kaggle.csv", "--no-fetch", "--run2d", "26")
    assert {key.split("/")[0] for key in done.targets["target"]} == {"26"}
    assert "run2d 26 for 4 targets, as given" in done.out
    done = select("kaggle.csv", "--no-fetch", "--run2d", "../26")
    assert done.status == ExitStatus.REFUSED
    assert "--run2d is '../26', expected the name of a reduction, such as 26 or v5_13_2" in done.err


def test_a_plate_that_the_source_lacks_is_refused(select, shared_data: Path) -> None:
    done = select("vizier.csv", "--source", str(shared_data / "sas" / "dr17"))
    assert done.status == ExitStatus.REFUSED
    assert "has no file of plate 6177, mjd 56268 (run2d v5_13_2, " in done.err
    assert "give the run2d by --run2d NAME or a column" in done.err
    assert done.targets is None


def test_a_source_that_does_not_answer_is_refused_if_it_was_named(select) -> None:
    with socket.socket() as listening:  # accepts nothing
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        done = select("vizier.csv", "--source", f"http://127.0.0.1:{port}/sas/dr17")
    assert done.status == ExitStatus.REFUSED
    assert "expected an archive that answers" in done.err


def test_a_condition_speaks_of_ours_where_the_catalog_has_no_such_column(select, cases: Path) -> None:
    done = select("v.csv", "--where", "plate == 15170")
    assert done.targets["target"].tolist() == ["v6_0_4/15170-59292-4375924486"]
    done = select("photz.csv", "--where", "z < 1")
    assert done.status == ExitStatus.REFUSED
    assert "z in --where is the catalog's column z; ours is written redshift" in done.err
    assert select("photz.csv", "--where", "redshift < 1").status == 0


def test_the_magnitude_is_refused_even_by_name(select) -> None:
    done = select("photz.csv", "--column", "z=z")
    assert done.status == ExitStatus.REFUSED
    assert "column z of" in done.err
    assert "its median is 14.9, a magnitude as g, i, r, u; choose another column, or leave --column z out" in done.err
