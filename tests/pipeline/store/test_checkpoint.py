from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.planning.domain import Domain
from pipeline.store.checkpoint import grid, inspect
from spender_core.instrument import SDSS
from spender_core.weights import WeightsError
from tests.running import random_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.getbasetemp())


def test_inspect_tells_what_a_plan_needs(checkpoint: Path) -> None:
    facts = inspect(str(checkpoint), "sdss")
    assert facts.n_latent == 4
    assert facts.wave_rest.shape == (700,)
    assert len(facts.sha256) == 64
    assert facts.domain is None


def test_inspect_reads_what_a_checkpoint_was_trained_on(tmp_path: Path) -> None:
    file = random_checkpoint(tmp_path, domain={"classes": ["GALAXY"], "z": [0.0, 0.5], "sn": None})
    assert inspect(str(file), "sdss").domain == Domain(z=(0.0, 0.5), classes=("GALAXY",))


def test_a_domain_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    file = random_checkpoint(tmp_path, domain={"z": [0.5, 0.0]})
    with pytest.raises(WeightsError, match=r"its domain is .*, expected .*; save it again without"):
        inspect(str(file), "sdss")


def test_a_model_of_another_grid_is_refused(checkpoint: Path) -> None:
    with pytest.raises(WeightsError, match="trained for sdss"):
        inspect(str(checkpoint), "boss")
    with pytest.raises(WeightsError, match="trained for desi"):
        inspect("desi_edr_star", "sdss")


def test_the_grid_is_the_instruments() -> None:
    found = grid("sdss")
    np.testing.assert_array_equal(found.wavelength, SDSS().wave_obs.numpy())
    assert found.skyline.sum() == 660
    assert grid("sdss") is found
