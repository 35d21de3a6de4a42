"""Where the encoder of a run looks, on real spectra and those that have none."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline.errors import ConfigError
from pipeline.results.figures.attention import read_attention
from pipeline.results.run import Run, open_run
from spender_core import SDSS, load_model
from spender_core.architectures import register
from spender_core.weights import WeightsError
from tests import toy_architecture
from tests.running import random_checkpoint

pytestmark = pytest.mark.slow
PLATE = "sdss/spectro/redux/26/spectra/lite/0266"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("attention")


@pytest.fixture(scope="module")
def run(folder: Path, mirror: Path, catalog: Path) -> Run:
    """Give two real galaxies, the second without a file, encoded by a model that takes the redshift and one more."""
    first, second = sorted((mirror / PLATE).glob("spec-0266-51630-*.fits"))[:2]
    (folder / "mirror" / PLATE).mkdir(parents=True)
    shutil.copy(first, folder / "mirror" / PLATE / first.name)
    fibers = ", ".join(str(int(file.stem[-4:])) for file in (first, second))
    where = f"PLATE == 266 and MJD == 51630 and FIBERID in ({fibers})"
    models = [f"free={random_checkpoint(folder)}", f"taking={random_checkpoint(folder, n_aux=1)}"]
    targets = pipeline.select_targets(catalog, where=where)
    pipeline.plan(folder / "run", targets=targets, source=folder / "mirror", models=models)
    pipeline.run(folder / "run", serial=True, accept_missing=True, progress=False)
    return open_run(folder / "run")


@pytest.mark.parametrize("name", ["free", "taking"])
def test_it_is_that_of_the_models_encoder(run: Run, name: str) -> None:
    found = read_attention(run, 0, name)
    assert found is not None
    assert (found.weights.shape, found.sensitivity.shape, found.wavelength.shape) == ((256, 72), (4, 3921), (72,))
    np.testing.assert_allclose(found.weights.sum(axis=1), 1, rtol=1e-5)
    encoding = run.encodings(name).isel(spectrum=0)
    encoder = load_model(run.plan.model(name).checkpoint, SDSS())[0].encoder
    # A small change of the flux moves the latents by it; in float32 a pooled maximum may be another pixel.
    spec = encoding["flux"].to_numpy()[None].astype(np.float64)
    change = 1e-6 * np.sin(np.arange(spec.size) / 30)[None]
    z = np.array([[float(encoding["z"])]]) if encoder.n_aux else None
    both = [_latents(encoder.double(), spec + sign * change, z) for sign in (1, -1)]
    moved = (both[0] - both[1]) / 2
    np.testing.assert_allclose(found.sensitivity @ change[0], moved, rtol=0, atol=0.03 * np.abs(moved).max())


def _latents(encoder, spec, aux):  # noqa: ANN001, ANN202
    import torch

    with torch.no_grad():
        return encoder(torch.from_numpy(spec), None if aux is None else torch.from_numpy(aux))[0].numpy()


def test_a_spectrum_without_latents_has_none(run: Run) -> None:
    assert read_attention(run, 1, "free") is None


def test_the_model_is_named_where_there_are_several(run: Run) -> None:
    with pytest.raises(ConfigError, match="several models: free, taking"):
        read_attention(run, 0)


def test_a_checkpoint_that_was_replaced_is_refused(run: Run, folder: Path) -> None:
    file = Path(run.plan.model("free").checkpoint)
    kept = file.read_bytes()
    shutil.copy(random_checkpoint(folder, seed=2), file)
    try:
        with pytest.raises(WeightsError, match="SHA-256"):
            read_attention(run, 0, "free")
    finally:
        file.write_bytes(kept)


@pytest.mark.usefixtures("own_architectures")
def test_an_architecture_without_attention_is_refused(run: Run, folder: Path) -> None:
    register(toy_architecture.Toy)
    checkpoint = toy_architecture.random_checkpoint(folder / "toy.pt")
    root = folder / "toy"
    frame = run.targets()
    pipeline.plan(root, targets=frame, source=folder / "mirror", models=[f"toy={checkpoint}"])
    pipeline.run(root, serial=True, accept_missing=True, progress=False)
    with pytest.raises(ConfigError, match="the architecture toy of the model toy has no attention to show"):
        read_attention(open_run(root), 0)
