"""What is exported is read back by the tools of its format, bit by bit, and says where it comes from."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from astropy import units
from astropy.io import fits
from astropy.table import QTable, Table

import pipeline
from pipeline.cli.main import main
from pipeline.results.tables import table as tables
from pipeline.store.finalize import finalize
from tests.pipeline.conftest import MakeRun

pytestmark = pytest.mark.slow

FACTS = {"model": "toy", "model_sha256": "ab" * 32}


@pytest.fixture
def run(tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> pipeline.Run:
    monkeypatch.setattr(tables, "BLOCK", 8)
    finalize(str(tmp_path / "run"), make_run(tmp_path / "run"))
    return pipeline.open_run(tmp_path / "run")


def same(found: object, expected: pd.Series) -> bool:
    values = np.ma.getdata(np.asarray(found))
    if values.dtype.kind in "SUO":
        return [each.decode() if isinstance(each, bytes) else str(each) for each in values] == list(expected)
    own = expected.to_numpy()
    return values.dtype.newbyteorder("=") == own.dtype and np.array_equal(values, own, equal_nan=own.dtype.kind == "f")


def test_parquet_is_the_table(run: pipeline.Run, tmp_path: Path) -> None:
    done = pipeline.export(run.root, tmp_path / "x.parquet")
    assert (done.rows, done.rows_not_done) == (18, 0)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "x.parquet"), run.table().reset_index(drop=True))
    schema = pq.read_schema(tmp_path / "x.parquet")
    said = {key.decode(): text.decode() for key, text in schema.metadata.items() if key != b"ARROW:schema"}
    assert FACTS.items() <= said.items()
    assert said["cite"] == run.table().attrs["cite"]
    assert schema.field("ra").metadata[b"unit"] == b"degree"
    assert schema.field("l0").metadata[b"description"].startswith(b"latent parameters")


def test_fits_is_the_table_with_units_ucds_nulls_and_checksums(run: pipeline.Run, tmp_path: Path) -> None:
    pipeline.export(run.root, tmp_path / "x.fits")
    table = run.table()
    with fits.open(tmp_path / "x.fits", checksum=True) as file:  # a wrong sum is a warning, and so an error
        file.verify("exception")
        header = file["RESULTS"].header
        assert header["NAXIS2"] == 18
        assert {"CHECKSUM", "DATASUM"} <= set(header)
        assert (header["MODEL"], header["MODSHA"]) == ("toy", "ab" * 32)
        assert header["FINGERP"] == run.plan.encode_fingerprint("toy")
        assert "ace0ff" in header["CITE"]
        number = {header[f"TTYPE{i}"]: i for i in range(1, header["TFIELDS"] + 1)}
        assert header[f"TUNIT{number['ra']}"] == "deg"
        assert header[f"TUCD{number['ra']}"] == "pos.eq.ra;meta.main"
        assert header[f"TNULL{number['rest_first']}"] == -1
        assert header[f"TFORM{number['latents']}"] == "3E"
    read = Table.read(tmp_path / "x.fits")
    vectors = {f"l{i}": read["latents"][:, i] for i in range(3)}
    regions = [name for name in table if name.startswith("region_chi2_")]
    vectors |= {name: read["region_chi2"][:, i] for i, name in enumerate(regions)}
    assert read["region_chi2"].shape == (18, 8)
    for name in table:
        column = vectors[name] if name in vectors else read[name]
        assert same(column, table[name]), name
    assert read["specobjid"].dtype == np.uint64
    assert QTable.read(tmp_path / "x.fits")["norm"].unit.is_equivalent(units.Unit("erg s-1 cm-2 Angstrom-1"))


def test_csv_is_the_table_for_whatever_reads_csv(run: pipeline.Run, tmp_path: Path) -> None:
    pipeline.export(run.root, tmp_path / "x.csv")
    table, plain = run.table(), pd.read_csv(tmp_path / "x.csv")
    said = json.loads((tmp_path / "x.csv-metadata.json").read_text(encoding="utf-8"))
    assert said["url"] == "x.csv"
    assert FACTS.items() <= said["notes"][0].items()
    columns = said["tableSchema"]["columns"]
    assert list(plain) == list(table) == [column["name"] for column in columns]
    assert {"degree"} == {column["unit"] for column in columns if column["name"] in ("ra", "dec")}
    for name in table:
        if table[name].dtype.kind in "fiu":
            assert same(plain[name].astype(table[name].dtype), table[name]), name


def test_ecsv_is_the_table_for_astropy_and_pandas(run: pipeline.Run, tmp_path: Path) -> None:
    pipeline.export(run.root, tmp_path / "x.ecsv")
    table, read = run.table(), Table.read(tmp_path / "x.ecsv", format="ascii.ecsv")
    assert FACTS.items() <= read.meta.items()
    assert read["ra"].unit == units.deg
    plain = pd.read_csv(tmp_path / "x.ecsv", comment="#")
    assert list(plain) == list(table) == read.colnames
    for name in table:
        assert same(read[name], table[name]), name


@pytest.mark.skipif(shutil.which("stilts") is None, reason="needs Debian's stilts")
@pytest.mark.parametrize("ending", [".fits", ".csv"])
def test_stilts_opens_it(run: pipeline.Run, tmp_path: Path, ending: str) -> None:
    pipeline.export(run.root, tmp_path / f"x{ending}")
    command = ["stilts", "tpipe", f"in={tmp_path}/x{ending}", "cmd=keepcols 'target z'", "ofmt=csv"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    read, table = pd.read_csv(io.StringIO(done.stdout)), run.table()
    assert read["target"].tolist() == table["target"].tolist()
    assert same(read["z"].astype(table["z"].dtype), table["z"])


def test_all_formats_hold_selected_rows_and_columns(run: pipeline.Run, tmp_path: Path) -> None:
    names = ["target", "l1", "quality"]
    wanted = run.table(columns=names, where="l1 > 0").reset_index(drop=True)
    for ending in ("parquet", "fits", "csv"):
        assert pipeline.export(run.root, tmp_path / f"x.{ending}", columns=names, where="l1 > 0").rows == len(wanted)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "x.parquet"), wanted)
    assert same(Table.read(tmp_path / "x.fits")["l1"], wanted["l1"])
    assert same(pd.read_csv(tmp_path / "x.csv")["l1"].astype("f4"), wanted["l1"])


def test_the_same_run_gives_the_same_bytes(run: pipeline.Run, tmp_path: Path) -> None:
    for ending in ("parquet", "fits", "csv"):
        files = [tmp_path / f"{name}.{ending}" for name in "ab"]
        for file in files:
            pipeline.export(run.root, file)
        assert files[0].read_bytes() == files[1].read_bytes()


def test_a_table_without_rows_is_a_file_too(run: pipeline.Run, tmp_path: Path) -> None:
    for ending in ("parquet", "fits", "csv"):
        assert pipeline.export(run.root, tmp_path / f"x.{ending}", where="z > 9").rows == 0
    assert len(pd.read_parquet(tmp_path / "x.parquet")) == 0
    with fits.open(tmp_path / "x.fits", checksum=True) as file:
        assert len(file[1].data) == 0


def test_kept_columns_of_every_type_are_exported(tmp_path: Path, mirror: Path, catalog: Path) -> None:
    from tests.running import random_checkpoint

    frame = pipeline.select_targets(catalog).frame.head(3)
    kept = {
        "tiny": np.array([-128, 0, 127], np.int8),
        "small": np.array([0, 1, 65535], np.uint16),
        "flag": np.array([True, False, True]),
        "name": ["Mrk 1", 'Å "x", y', ""],
        "mass": np.array([1.5, np.nan, -np.inf]),
    }
    pipeline.plan(
        tmp_path / "run",
        targets=frame.assign(**kept),
        source=mirror,
        models=[f"random={random_checkpoint(tmp_path)}"],
        keep=list(kept),
        variables=["latents"],
    )
    pipeline.run(tmp_path / "run", serial=True, progress=False)
    table = pipeline.open_run(tmp_path / "run").table()
    for ending in ("parquet", "fits", "ecsv"):
        pipeline.export(tmp_path / "run", tmp_path / f"x.{ending}")
    parquet = pd.read_parquet(tmp_path / "x.parquet")
    with fits.open(tmp_path / "x.fits", checksum=True) as file:
        stored = {name: np.array(file[1].data[name]) for name in kept}
    ecsv = Table.read(tmp_path / "x.ecsv", format="ascii.ecsv")
    for name, values in kept.items():
        wanted = list(map(str, values))
        assert list(map(str, table[name].tolist())) == wanted
        assert list(map(str, parquet[name].tolist())) == wanted
        assert ["" if each is np.ma.masked else str(each) for each in ecsv[name]] == wanted  # empty text is missing
    assert stored["name"].tolist() == ["Mrk 1", '\\xc5 "x", y', ""]
    for name in ("tiny", "small", "flag", "mass"):
        np.testing.assert_array_equal(stored[name], kept[name])


@pytest.mark.parametrize("name", ["x.txt", "x", "x.fits.gz", "x.hdf5"])
def test_another_ending_is_refused(run: pipeline.Run, tmp_path: Path, name: str) -> None:
    with pytest.raises(pipeline.ConfigError, match=r"ends in \.parquet or \.fits or \.csv or \.ecsv or \.hats"):
        pipeline.export(run.root, tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_file_is_there_as_a_whole_or_not_at_all(run: pipeline.Run, tmp_path: Path, monkeypatch) -> None:
    def fail(self: object, start: int, stop: int, columns: object = None) -> None:
        raise OSError("the disk is full")

    (tmp_path / "out").mkdir()
    monkeypatch.setattr(tables.ResultsTable, "block", fail)
    for ending in ("parquet", "fits", "csv"):
        with pytest.raises(OSError, match="full"):
            pipeline.export(run.root, tmp_path / "out" / f"x.{ending}")
    assert list((tmp_path / "out").iterdir()) == []


def test_it_writes_to_any_storage(run: pipeline.Run) -> None:
    pipeline.export(run.root, "memory://exports/x.parquet")
    with fsspec.open("memory://exports/x.parquet", "rb") as file:
        assert len(pd.read_parquet(file)) == 18


def test_the_command_prints_what_it_wrote(run: pipeline.Run, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = str(tmp_path / "x.csv")
    assert main(["export", run.root, "--output", output, "--columns", "target,z", "--where", "z < 0.1"]) == 0
    assert capsys.readouterr().out == f"5 rows: {output}\n"
    assert main(["export", run.root, "--output", str(tmp_path / "x.doc")]) == 1
    assert "a name that ends in" in capsys.readouterr().err


def test_the_command_says_what_is_left_out_of_an_unfinished_run(
    tmp_path: Path, make_run: MakeRun, capsys: pytest.CaptureFixture
) -> None:
    make_run(tmp_path / "run", without=[("encode toy", 1)])
    assert main(["export", str(tmp_path / "run"), "--output", str(tmp_path / "x.fits")]) == 3
    said = capsys.readouterr()
    assert said.out.startswith("14 rows: ")
    assert said.err == "left out: 4 spectra that are not encoded yet; status says why\n"
    assert fits.getheader(tmp_path / "x.fits", 1)["NOTDONE"] == "4"
