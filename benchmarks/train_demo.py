r"""Train the embedded model `sdss-demo`, and one model per fold to judge it by.

    python benchmarks/train_demo.py --data ../shared/data --work /tmp/demo-training \
        --ship spender_core/data/sdss-demo.pt

The decoder starts as the pipeline's four eigenspectra. Then three phases, each a run of `spender_core.training.fit`
that resumes where it stopped: the encoder learns the known coefficients of mocks; encoder and decoder learn to
reconstruct mocks; and the real galaxies are mixed in, once per fold without that fold's galaxies and once with all of
them. `benchmarks/reconstruction.py` judges the folds.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from galaxies import Basis, Galaxies, MockGalaxies, fit_components, read_components, read_galaxies, rest_grid
from torch import Tensor

from spender_core.autoencoder import SpectrumAutoencoder
from spender_core.dataset import Batch, Split
from spender_core.instrument import SDSS
from spender_core.objective import Own
from spender_core.settings import Settings
from spender_core.training import fit
from spender_core.weights import checkpoint_sha256, load_model

N_LATENT = 6  # four start as the eigenspectra's coefficients, two are free for what real galaxies have beyond them
N_FOLD = 5
SEED = 20
WARM_UP = Settings(epochs=16, batch_size=64, lr=1.5e-3, seed=SEED, bf16=True)
JOINT = Settings(epochs=3, batch_size=64, lr=3e-4, seed=SEED, bf16=True)
REAL = Settings(epochs=4, batch_size=32, lr=2e-4, seed=SEED, bf16=True)
STEPS = 100  # per epoch, of mocks
REAL_STEPS = 30


def folds(objects: np.ndarray) -> np.ndarray:
    """Deal spectra to folds in a shuffled order, all observations of one object to the same fold."""
    distinct, which = np.unique(objects, return_inverse=True)
    return np.random.default_rng(SEED).permutation(len(distinct))[which] % N_FOLD


def start_decoder(model: SpectrumAutoencoder, basis: Basis) -> None:
    """Make the decoder the affine map of the basis; units it has no use for wait behind weights of 0."""
    n = basis.response.shape[0]
    layers = [module for module in model.decoder.mlp if isinstance(module, torch.nn.Linear)]
    activations = [module for module in model.decoder.mlp if not isinstance(module, torch.nn.Linear)]
    with torch.no_grad():
        for layer, activation in zip(layers[:-1], activations[:-1], strict=True):
            layer.weight[:n] = 0
            layer.bias[:n] = 0
            layer.weight[:n, :n] = torch.eye(n)
            activation.gamma[:n] = 1  # gamma 1: the Speculator activation is the identity
        layers[-1].weight.zero_()
        layers[-1].weight[:, :n] = torch.from_numpy(basis.response.T)
        layers[-1].bias[:] = torch.from_numpy(basis.offset) - 1
        activations[-1].gamma[:] = 1


def coefficient_loss(basis: Basis) -> Callable[[SpectrumAutoencoder, Batch], Tensor]:
    """Logarithm of the extra chi2 per pixel that wrong coefficients cause, given a spectrum's mean weight."""
    response = torch.from_numpy(basis.response)
    gram = response @ response.T / response.shape[1]
    n = len(gram)

    def loss(model: SpectrumAutoencoder, batch: Batch) -> Tensor:
        assert batch.s is not None
        s = model.encode(batch.spec, batch.z.unsqueeze(1)).float()
        error = s[:, :n] - batch.s
        weight = batch.w.sum(1) / (batch.w > 0).sum(1)
        excess = torch.einsum("ni,ij,nj->n", error, gram, error) * weight
        return torch.log1p(excess).mean() + 0.01 * s[:, n:].square().mean()

    return loss


def log_chi2(model: SpectrumAutoencoder, batch: Batch) -> Tensor:
    """Mean logarithm of the reduced chi2: every galaxy counts alike, whatever its signal-to-noise."""
    _, _, reconstruction, valid = model.reconstruct(batch.spec, z=batch.z)
    w = batch.w * valid
    chi2 = torch.sum(w * (batch.spec - reconstruction.float()).square(), 1) / (w > 0).sum(1)
    return torch.log(chi2 + 0.1).mean()


class RealAndMock:
    """Half real galaxies, altered afresh each time, half mocks; nothing is held back for validation."""

    def __init__(self, galaxies: Galaxies, rows: np.ndarray, mocks: MockGalaxies) -> None:
        arrays = (galaxies.flux, galaxies.ivar, galaxies.z)
        self._flux, self._ivar, self._z = (torch.from_numpy(a[rows]) for a in arrays)
        self._mocks = mocks
        self.identity = f"galaxies {' '.join(galaxies.names[i] for i in rows)} and {mocks.identity}"

    def steps(self, split: Split, batch_size: int) -> int:
        """Batches per epoch."""
        return REAL_STEPS if split == "train" else 0

    def batches(self, split: Split, epoch: int, batch_size: int, begin: int = 0) -> Iterator[Batch]:
        """Yield mixed batches."""
        rng = np.random.default_rng((SEED, epoch, 2))
        for i in range(self.steps(split, batch_size)):
            real, mock = self._alter(rng, batch_size // 2), self._mocks.draw(rng, batch_size - batch_size // 2)
            if i < begin:
                continue
            yield Batch(*(torch.cat((getattr(real, k), getattr(mock, k))) for k in ("spec", "w", "z")))

    def _alter(self, rng: np.random.Generator, n: int) -> Batch:
        """Add noise and shift by whole bins, which is a change of redshift on a logarithmic grid."""
        take = torch.from_numpy(rng.choice(len(self._z), n, replace=len(self._z) < n))
        spec, w, z = self._flux[take], self._ivar[take], self._z[take]
        extra = torch.from_numpy((0.7 * rng.random((n, 1)) * (rng.random((n, 1)) < 0.7)).astype(np.float32))
        sigma = torch.where(w > 0, w.clamp_min(1e-12).rsqrt(), 0) * extra
        spec = spec + sigma * torch.from_numpy(rng.standard_normal(spec.shape, dtype=np.float32))
        w = w / (1 + extra**2)
        shifts = rng.integers(-60, 61, n)
        spec, w = (torch.stack([_shift(row, int(k)) for row, k in zip(x, shifts, strict=True)]) for x in (spec, w))
        return Batch(spec, w, (1 + z) * torch.from_numpy(10 ** (1e-4 * shifts)).float() - 1)


def _shift(row: Tensor, bins: int) -> Tensor:
    moved = torch.roll(row, bins)
    if bins > 0:
        moved[:bins] = 0
    elif bins < 0:
        moved[bins:] = 0
    return moved


def new_model() -> SpectrumAutoencoder:
    """Make the untrained architecture of `sdss-demo`."""
    torch.manual_seed(SEED)
    return SpectrumAutoencoder(SDSS(), torch.from_numpy(rest_grid()), n_latent=N_LATENT, n_aux=1)


def load(model: SpectrumAutoencoder, file: Path, settings: Settings) -> None:
    """Load the weights of a phase. ValueError for one that has not finished."""
    loaded, history = load_model(file, SDSS())
    if len(history["train"]) < settings.epochs:
        raise ValueError(f"{file} has {len(history['train'])} epochs of {settings.epochs}: let train_demo.py finish")
    model.load_state_dict(loaded.state_dict())


def train(data: Path, work: Path, compiled: bool = True) -> None:
    """Run every phase that has not finished yet."""
    galaxies, components = read_galaxies(data), read_components(data)
    rows = np.flatnonzero(galaxies.clean)
    coefficients = fit_components(galaxies, components)[0][rows]
    basis = Basis.of(coefficients, components)
    mocks = MockGalaxies(galaxies, basis, basis.latents(coefficients), STEPS, SEED)
    model = new_model()
    start_decoder(model, basis)
    if compiled:
        model.encoder.compile()

    model.decoder.requires_grad_(False)
    fit([(model, mocks)], WARM_UP, work / "1-warm-up.pt", Own("coefficients", coefficient_loss(basis)))
    model.decoder.requires_grad_(True)
    fit([(model, mocks)], JOINT, work / "2-joint.pt", Own("log chi2", log_chi2))

    fold = folds(galaxies.objects[rows])
    for k in (*range(N_FOLD), None):
        load(model, work / "2-joint.pt", JOINT)
        survey = RealAndMock(galaxies, rows if k is None else rows[fold != k], mocks)
        fit([(model, survey)], REAL, work / f"3-real-{'all' if k is None else k}.pt", Own("log chi2", log_chi2))


def ship(data: Path, work: Path, destination: Path) -> None:
    """Write the model that has seen all galaxies as the embedded `sdss-demo`, in half precision.

    Beside the weights it holds `latents`, shape (N, S): those of the training galaxies, from which mock surveys draw.
    """
    galaxies = read_galaxies(data)
    rows = np.flatnonzero(galaxies.clean)
    model = new_model().eval()
    load(model, work / "3-real-all.pt", REAL)
    with torch.no_grad():
        # encoded by the weights as they are stored
        model.load_state_dict({k: _stored(k, v).float() for k, v in model.state_dict().items()})
        latents = model.encode(torch.from_numpy(galaxies.flux[rows]), torch.from_numpy(galaxies.z[rows, None]))
    phases = ("1-warm-up", "2-joint", "3-real-all")
    losses = {phase: torch.load(work / f"{phase}.pt", weights_only=True)["losses"] for phase in phases}
    state = {k: _stored(k, v) for k, v in model.state_dict().items()}
    torch.save({"model": state, "losses": losses, "instruments": ["sdss"], "latents": latents}, destination)
    print(f"{destination}: {destination.stat().st_size / 1e6:.1f} MB, SHA-256 {checkpoint_sha256(destination)}")


def _stored(key: str, value: Tensor) -> Tensor:
    """Weights in half precision, wavelengths as they are."""
    return value if key == "decoder.wave_rest" else value.half()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with sas/dr17 and templates")
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoints of the phases")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ship", type=Path, help="file to write the model to embed to")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    train(arguments.data, arguments.work)
    if arguments.ship:
        ship(arguments.data, arguments.work, arguments.ship)
