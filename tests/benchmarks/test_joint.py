"""Two instruments trained together: the mocks, and the benchmark at a tiny size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from joint import LEVEL, REDSHIFTS, SN, WAVE, Mocks, Trained, agreement, components, rest_range

from spender_core.instrument import get_instrument
from tests.benchmarks.running import lines_of


def test_together_the_restframe_is_wider_than_of_either() -> None:
    (blue, red), (bluer, less_red) = rest_range(["sdss"]), rest_range(["boss"])
    assert bluer < blue
    assert less_red < red
    assert rest_range(["sdss", "boss"]) == (bluer, red)


@pytest.mark.parametrize("name", REDSHIFTS)
def test_mocks_are_their_truth_and_the_noise_that_they_state(name: str) -> None:
    batch = Mocks(name, 1).draw(16, np.random.default_rng(0))
    assert batch.truth is not None
    wave = Mocks(name, 1).wave
    z, truth = batch.z.double().numpy(), batch.truth.double().numpy()
    clean = np.array([np.interp(wave / (1 + k), WAVE, row) for k, row in zip(z, truth, strict=True)])
    chi2 = (batch.w.numpy() * (batch.spec.numpy() - clean) ** 2).mean(axis=1)
    np.testing.assert_allclose(chi2, 1, atol=6 * np.sqrt(2 / len(wave)))
    assert ((z >= REDSHIFTS[name][0]) & (z <= REDSHIFTS[name][1])).all()
    assert ((batch.w.sqrt() >= 0.99 * SN[0]) & (batch.w.sqrt() <= 1.01 * SN[1])).all()


def test_mocks_are_new_in_every_epoch_and_repeatable() -> None:
    mocks = Mocks("sdss", 2)
    first, again, later = (list(mocks.batches("train", epoch, 3))[1].spec for epoch in (0, 0, 1))
    assert first.equal(again)
    assert not first.equal(later)
    (resumed,) = mocks.batches("train", 0, 3, begin=1)
    assert resumed.spec.equal(first)
    valid = [next(iter(mocks.batches("valid", epoch, 3))).spec for epoch in (0, 1)]
    assert valid[0].equal(valid[1])


def test_stars_are_level_and_lines_are_where_they_belong() -> None:
    young, old, tilt, gas, hard = components()
    level = (WAVE > LEVEL[0]) & (WAVE < LEVEL[1])
    assert young[level].mean() == pytest.approx(1)
    assert old[level].mean() == pytest.approx(1)
    assert np.abs(tilt[level]).max() < 0.07
    assert WAVE[gas.argmax()] == pytest.approx(6564.6, abs=0.5)
    assert WAVE[hard.argmax()] == pytest.approx(5008.2, abs=0.5)


def test_restframes_of_two_instruments_are_compared_where_both_see() -> None:
    class Same(torch.nn.Module):
        """Decodes 1, and half of that where only the first instrument sees."""

        def __init__(self, name: str, height: float) -> None:
            super().__init__()
            self.wave_obs, self.wave_rest = get_instrument(name).wave_obs, torch.linspace(2500, 9500, 200)
            self._height = height

        def encode(self, spec: torch.Tensor) -> torch.Tensor:
            return spec.mean(1, keepdim=True)

        def decode(self, s: torch.Tensor) -> torch.Tensor:
            return torch.where(self.wave_rest < 3600 / 1.35, 100 * s, self._height)

    found = agreement(Trained({"sdss": Same("sdss", 1.0), "desi": Same("desi", 1.25)}, (2500, 9500)), 5)  # type: ignore[dict-item]
    assert found.between == pytest.approx(0.25)
    assert found.within == {"sdss": 0.0, "desi": 0.0}


@pytest.mark.long
def test_the_benchmark_compares_and_goes_on(tmp_path: Path) -> None:
    options = ("joint.py", "--second", "desi", "--steps", "2", "--batch", "2", "--work", tmp_path)
    lines = lines_of(*options)
    found = [line for line in lines if ": fidelity loss alone" in line]
    assert [line[:4] for line in found] == ["sdss", "desi"]
    ratios = [float(line.split("ratio ")[1].split()[0]) for line in found]
    assert float(lines[-1].removeprefix("ratio: ")) == pytest.approx(max(ratios), abs=2e-3)
    assert sum(line.startswith("  epoch") for line in lines) == 6
    again = lines_of(*options)
    assert not any(line.startswith("  epoch") for line in again)
    assert again[-1] == lines[-1]
