"""One spectrum as specutils has it."""

from __future__ import annotations

import builtins
from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline.results.spectrum import read_spectra, read_spectrum
from tests.pipeline.conftest import MakeRun, model_config

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path: Path, make_run: MakeRun) -> pipeline.Run:
    make_run(tmp_path)
    return pipeline.open_run(tmp_path)


def test_observed_reconstruction_and_restframe_have_units_masks_and_uncertainties(run: pipeline.Run) -> None:
    pytest.importorskip("specutils", reason="the extra `analysis` is not installed")
    from astropy import units
    from astropy.nddata import InverseVariance

    stored = run.encodings().isel(spectrum=2)
    norm = float(stored["norm"])
    observed = run.spectrum((300, 51600, 3))
    assert observed.flux.unit == 1e-17 * units.erg / units.s / units.cm**2 / units.AA
    np.testing.assert_array_equal(observed.flux.value, stored["flux"].to_numpy().astype(np.float64) * norm)
    np.testing.assert_array_equal(observed.mask, ~(stored["ivar"].to_numpy() > 0))
    assert isinstance(observed.uncertainty, InverseVariance)
    np.testing.assert_array_equal(observed.spectral_axis.value, stored["wavelength"].to_numpy())
    assert observed.meta["target"] == "26/300-51600-3"
    assert observed.meta["model"] == "toy"
    restframe = run.spectrum((300, 51600, 3), kind="restframe")
    np.testing.assert_array_equal(restframe.flux.value, stored["restframe"].to_numpy().astype(np.float64) * norm)
    reconstruction = run.spectrum("26/300-51600-3", kind="reconstruction")
    assert reconstruction.flux.shape == (3921,)
    with pytest.raises(pipeline.ConfigError, match="kind is 'sky', expected one of observed"):
        run.spectrum("26/300-51600-3", kind="sky")
    with pytest.raises(pipeline.ConfigError, match="there is no restframe of 26/300-51600-5"):
        run.spectrum("26/300-51600-5", kind="restframe")


def test_without_specutils_it_says_what_to_install(run: pipeline.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: object) -> object:
        if name == "specutils":
            raise ImportError(name)
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(pipeline.ConfigError, match=r"specutils is not installed; pip install 'spender-pipeline\[anal"):
        run.spectrum("26/300-51600-3")


def test_several_rows_are_those_of_one_each(run: pipeline.Run) -> None:
    for row, found in zip([7, 2], read_spectra(run, [7, 2]), strict=True):
        alone = read_spectrum(run, row)
        assert found.target == alone.target
        np.testing.assert_array_equal(found.flux, alone.flux)
        np.testing.assert_array_equal(found.reconstruction, alone.reconstruction)


def test_a_model_that_has_not_begun_leaves_the_spectra(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path, models=())
    found = read_spectrum(pipeline.open_run(tmp_path), 2)
    assert (found.model, len(found.restframe)) == ("", 0)
    assert np.isnan(found.reconstruction).all()
    make_run(tmp_path / "two", models=[model_config("a"), model_config("b")])
    with pytest.raises(pipeline.ConfigError, match="several models: a, b"):
        read_spectrum(pipeline.open_run(tmp_path / "two"), 2)
