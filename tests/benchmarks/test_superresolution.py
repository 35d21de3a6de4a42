"""The doublet that no spectrum resolves: its mocks, its measure, and the benchmark at a tiny size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import superresolution
import torch
from superresolution import (
    DOUBLET,
    INSTRUMENTS,
    KERNEL,
    STEP,
    Sample,
    blend,
    grid,
    observe,
    rest_grid,
    restframes,
    valley,
)

from spender_core.decoder import SpectrumDecoder
from spender_core.instrument import LSF, Instrument
from tests.benchmarks.running import lines_of

AMOUNTS = np.array([[1.0, 1.0, 0.3]])


def test_valley_is_what_two_gaussians_leave_between_them() -> None:
    wave = np.arange(3700.0, 3760.0, 0.05)
    lines = [np.exp(-0.5 * ((wave - line) / 0.8) ** 2) for line in DOUBLET]
    # half of the distance is 1.395 Angstrom; at a peak, the other line adds 0.002
    expected = 1 - 2 * np.exp(-0.5 * (1.395 / 0.8) ** 2) / 1.002
    assert valley(wave, 7 + 3 * sum(lines)) == pytest.approx(expected, abs=0.003)
    assert valley(wave, 1 + np.exp(-0.5 * ((wave - 3728.5) / 1.6) ** 2)) < 0.01


def test_spectra_show_one_line_wherever_bins_fall() -> None:
    wave = grid(*INSTRUMENTS["blended"][0])
    for shift in np.linspace(0, 1, 7):
        z = 1.09 * 10 ** (STEP * shift) - 1
        assert valley(wave / (1 + z), observe(wave, np.array([z]), AMOUNTS, KERNEL)[0]) < 0.03
    true = restframes(rest_grid()[None], AMOUNTS)[0]
    assert valley(rest_grid(), true) > 0.35
    assert valley(rest_grid()[4:-4], blend(true)) < 0.03


def test_kernel_extinguishes_no_scale() -> None:
    assert KERNEL.sum() == pytest.approx(1)
    assert np.abs(np.fft.rfft(KERNEL, 256)).min() > 1 / 7


def test_observation_of_a_delta_is_the_spectrum_at_the_bins() -> None:
    wave, z = grid(4000.0, 4100.0), np.array([0.09, 0.1])
    amounts = np.repeat(AMOUNTS, 2, axis=0)
    expected = [restframes(wave[None] / (1 + k), AMOUNTS)[0] for k in z]
    np.testing.assert_allclose(observe(wave, z, amounts, np.ones(1)), expected, rtol=1e-9)


def test_the_sharp_instrument_never_sees_the_doublet() -> None:
    rng = np.random.default_rng(0)
    (first, *_) = Sample.draw("sharp", 2, rng).instrument.wave_obs.tolist()
    assert first / (1 + superresolution.Z[1]) > DOUBLET[1] + 5


def test_alone_on_a_logarithmic_grid_a_delta_fits_as_well_as_the_true_kernel() -> None:
    """Why a second instrument is needed: what the module says of the kernel and the restframe."""
    wave = torch.from_numpy(grid(*INSTRUMENTS["blended"][0]))
    rest = torch.from_numpy(rest_grid())
    true = restframes(rest_grid()[None], AMOUNTS)
    blended = np.pad(blend(true[0]), 4, mode="edge")[None]
    z = torch.tensor([0.08, 0.0937, 0.11], dtype=torch.float64)
    decoder = SpectrumDecoder(rest, 3).double()
    observed = [
        decoder.transform(torch.from_numpy(spectrum).expand(3, -1), Instrument("any", wave, lsf), z)[:, 4:-4]
        for spectrum, lsf in ((true, LSF(torch.from_numpy(KERNEL))), (blended, LSF.delta(5).double()))
    ]
    assert observed[0].std() > 0.3
    torch.testing.assert_close(*observed, rtol=1e-4, atol=1e-4)


@pytest.mark.long
def test_the_benchmark_trains_prints_draws_and_goes_on(tmp_path: Path) -> None:
    options = ("superresolution.py", "--spectra", "24", "--epochs", "2", "--work", tmp_path)
    lines = lines_of(*options, "--figure", tmp_path / "doublet.png")
    assert sum(line.startswith("  epoch") for line in lines) == 7
    assert any(line.startswith("decoded, together: valley") for line in lines)
    assert (tmp_path / "doublet.png").stat().st_size > 10_000
    again = lines_of(*options)
    assert not any(line.startswith("  epoch") for line in again)
    assert again[-1] == lines[-1]
