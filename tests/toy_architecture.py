"""A second architecture for tests: linear encoder and decoder, installed as a package of another author would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spender_core import SDSS, Decoder, Encoder, Instrument, Memory, SpectrumModel, describe

NAME = "toy"
MODULE = "toy_architecture"


class ToyEncoder(Encoder):
    """Latents that are weighted sums of the pixels."""

    def __init__(self, instrument: Instrument, n_latent: int) -> None:
        super().__init__(instrument, n_latent)
        self.weights = nn.Linear(len(instrument.wave_obs), n_latent)

    def forward(self, spec: Tensor, aux: Tensor | None = None) -> Tensor:
        latents: Tensor = self.weights(spec)
        return latents


class ToyDecoder(Decoder):
    """Restframe spectra that are one plus a weighted sum of components."""

    def __init__(self, wave_rest: Tensor, n_latent: int, bias: bool) -> None:
        super().__init__(wave_rest, n_latent)
        self.components = nn.Linear(n_latent, len(wave_rest), bias=bias)

    def decode(self, s: Tensor) -> Tensor:
        restframe: Tensor = 1 + self.components(s)
        return restframe


class Toy(SpectrumModel):
    """Linear model. bias: whether the decoder has one."""

    architecture = NAME

    def __init__(self, instrument: Instrument, wave_rest: Tensor, n_latent: int = 3, bias: bool = True) -> None:
        super().__init__(ToyEncoder(instrument, n_latent), ToyDecoder(wave_rest, n_latent, bias))
        self._bias = bias

    @property
    def arguments(self) -> dict[str, Any]:
        return {"n_latent": self.n_latent, "bias": self._bias}

    @staticmethod
    def projected_memory(*, n_pixels: int, n_latent: int, n_rest: int, batch: int, precision: str) -> Memory:
        return Memory(kept=0, at_once=4 * batch * 4 * (n_pixels + n_latent + n_rest))


def install(folder: Path) -> Path:
    """Install this file into a folder, with the entry point that makes its architecture known.

    A process finds it where the folder is on sys.path (PYTHONPATH). Returns the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{MODULE}.py").write_text(Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
    write_distribution(folder, "toy-architecture", f"{NAME} = {MODULE}:Toy")
    return folder


def write_distribution(folder: Path, name: str, entry: str) -> None:
    """Write what an installer leaves of a distribution that brings one architecture."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[spender_core.architectures]\n{entry}\n", encoding="utf-8")


def save_model(model: SpectrumModel, file: Path) -> Path:
    """Save any model as training does, and return the file."""
    names = [model.encoder.instrument.name]
    torch.save({"model": [model.state_dict()], "losses": None, "instruments": names, **describe(model)}, file)
    return file


def random_checkpoint(file: Path, kind: type[SpectrumModel] = Toy, seed: int = 1, **arguments: Any) -> Path:  # noqa: ANN401
    """Save an untrained model of the SDSS grid; its architecture must be known in this process."""
    build: Any = kind
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return save_model(build(SDSS(), torch.logspace(3.37, 3.97, 700), **arguments), file)
