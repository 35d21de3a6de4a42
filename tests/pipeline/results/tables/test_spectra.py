"""Spectra that are written as FITS are read back by astropy and specutils, bit by bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy import units
from astropy.io import fits
from astropy.table import QTable

import pipeline
from pipeline.cli.main import main
from pipeline.results.spectrum import read_spectrum
from pipeline.results.tables import spectra as writing
from pipeline.store.finalize import finalize
from tests.pipeline.conftest import MakeRun

pytestmark = pytest.mark.slow

IDS = ["26/300-51600-3", "300-51600-1"]


@pytest.fixture
def run(tmp_path: Path, make_run: MakeRun) -> pipeline.Run:
    finalize(str(tmp_path / "run"), make_run(tmp_path / "run"))
    return pipeline.open_run(tmp_path / "run")


def test_each_spectrum_has_a_file_of_its_own(run: pipeline.Run, tmp_path: Path) -> None:
    done = pipeline.export_spectra(run.root, tmp_path / "out", ids=IDS)
    assert (done.rows, done.rows_not_done) == (2, 0)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["26-300-51600-1.fits", "26-300-51600-3.fits"]
    expected = read_spectrum(run, 2)
    with fits.open(tmp_path / "out" / "26-300-51600-3.fits", checksum=True) as file:
        file.verify("exception")
        assert [hdu.name for hdu in file] == ["PRIMARY", "OBSERVED", "RESTFRAME", "TARGETS"]
        assert (file[0].header["MODEL"], file[0].header["MODSHA"]) == ("toy", "ab" * 32)
        assert file["TARGETS"].data["target"].tolist() == ["26/300-51600-3"]
        assert file["TARGETS"].header["TCOMM3"] == "redshift of the restframe, of the catalog"
    observed = QTable.read(tmp_path / "out" / "26-300-51600-3.fits", hdu="OBSERVED")
    for name in ("flux", "ivar", "reconstruction", "wavelength"):
        np.testing.assert_array_equal(observed[name].value, getattr(expected, name))
    np.testing.assert_array_equal(observed["mask"], expected.masked)
    assert observed["flux"].unit == units.Unit("1e-17 erg s-1 cm-2 Angstrom-1")


def test_one_file_holds_all_of_them(run: pipeline.Run, tmp_path: Path) -> None:
    pipeline.export_spectra(run.root, tmp_path / "x.fits", where="z < 0.1")
    expected = [read_spectrum(run, row) for row in range(5)]
    observed = QTable.read(tmp_path / "x.fits", hdu="OBSERVED")
    restframe = QTable.read(tmp_path / "x.fits", hdu="RESTFRAME")
    assert observed["flux"].shape == (3921, 5)
    for i, each in enumerate(expected):
        np.testing.assert_array_equal(observed["flux"][:, i].value, each.flux)
        flux = each.restframe * each.norm if len(each.restframe) else np.full(50, np.nan)
        np.testing.assert_array_equal(restframe["flux"][:, i].value, flux)
    assert fits.getdata(tmp_path / "x.fits", "TARGETS")["target"].tolist() == [each.target for each in expected]


def test_specutils_reads_both(run: pipeline.Run, tmp_path: Path) -> None:
    specutils = pytest.importorskip("specutils", reason="the extra `analysis` is not installed")
    pipeline.export_spectra(run.root, tmp_path / "one", ids=IDS[:1])
    pipeline.export_spectra(run.root, tmp_path / "all.fits", ids=IDS)
    own = run.spectrum(IDS[0])
    read = specutils.Spectrum.read(tmp_path / "one" / "26-300-51600-3.fits")
    together = specutils.Spectrum.read(tmp_path / "all.fits")
    for flux, mask in ((read.flux, read.mask), (together.flux[0], together.mask[0])):
        np.testing.assert_array_equal(flux.value, own.flux.value)
        np.testing.assert_array_equal(mask, own.mask)
        assert flux.unit == own.flux.unit
    np.testing.assert_array_equal(read.spectral_axis.value, own.spectral_axis.value)
    deviation = own.uncertainty.array[~own.mask] ** -0.5
    np.testing.assert_allclose(read.uncertainty.array[~own.mask], deviation, rtol=1e-12)
    restframe = specutils.Spectrum.read(tmp_path / "all.fits", hdu=2, format="tabular-fits")
    np.testing.assert_array_equal(restframe.flux[0].value, run.spectrum(IDS[0], kind="restframe").flux.value)


def test_a_run_without_models_has_spectra_alone(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "run", models=())
    pipeline.export_spectra(tmp_path / "run", tmp_path / "x.fits", ids=IDS)
    with fits.open(tmp_path / "x.fits") as file:
        assert [hdu.name for hdu in file] == ["PRIMARY", "OBSERVED", "TARGETS"]
        assert "MODEL" not in file[0].header


def test_what_cannot_be_written_is_refused(run: pipeline.Run, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(pipeline.ConfigError, match="ends in .fits, or a folder"):
        pipeline.export_spectra(run.root, tmp_path / "x.csv", ids=IDS)
    with pytest.raises(pipeline.ConfigError, match="no spectrum that is done is chosen"):
        pipeline.export_spectra(run.root, tmp_path / "x.fits", where="z > 9")
    with pytest.raises(pipeline.ConfigError, match="by their ids and by a condition"):
        pipeline.export_spectra(run.root, tmp_path / "x.fits", ids=IDS, where="z > 9")
    monkeypatch.setattr(writing, "MOST_IN_ONE", 3)
    with pytest.raises(pipeline.ConfigError, match="at most 3 spectra in one file; name a folder"):
        pipeline.export_spectra(run.root, tmp_path / "x.fits", where="z < 1")
    assert not (tmp_path / "x.fits").exists()


def test_the_command_writes_them_too(run: pipeline.Run, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = str(tmp_path / "x.fits")
    assert main(["export", run.root, "--spectra", "--output", output, "--ids", ",".join(IDS)]) == 0
    assert capsys.readouterr().out == f"2 spectra: {output}\n"
    assert main(["export", run.root, "--spectra", "--output", output, "--columns", "z"]) == 1
    assert "leave it out with --spectra" in capsys.readouterr().err
    assert main(["export", run.root, "--output", output, "--ids", IDS[0]]) == 1
    assert "choose rows of the table with --where" in capsys.readouterr().err


def test_spectra_that_are_not_done_are_left_out(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "run", without=[("encode toy", 0)])
    assert main(["export", str(tmp_path / "run"), "--spectra", "--output", str(tmp_path / "out")]) == 3
    assert len(list((tmp_path / "out").iterdir())) == 14
    done = pipeline.export_spectra(tmp_path / "run", tmp_path / "x.fits", ids=["300-51600-1", "300-51600-9"])
    assert (done.rows, done.rows_not_done) == (1, 1)
