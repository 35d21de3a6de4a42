"""Checkpoints: published models, embedded ones and trained files -> model. Nothing is ever unpickled."""

from __future__ import annotations

import copy
import hashlib
import io
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import torch
from numpy._core import multiarray
from torch import Tensor

from .architectures import DEFAULT, get_architecture
from .encoder import N_FEATURE
from .instrument import LSF, Instrument
from .model import SpectrumModel

_REPOSITORY = "https://huggingface.co/pmelchior/spender/resolve"
_EMBEDDED = Path(__file__).parent / "data"


class WeightsError(ValueError):
    """A checkpoint that cannot be used; the message says why."""


@dataclass(frozen=True)
class Published:
    """A model that can be named instead of given as a file.

    file: name in the repository of published models, or below this package for the embedded ones.
    sha256: first hex digits of the file's hash, which pin its content. instrument: the one it was trained for.
    """

    file: str
    sha256: str
    instrument: str
    revision: str | None = "main"

    @property
    def url(self) -> str:
        """Where the file is: a URL, or a path for an embedded model."""
        if self.revision is None:
            return str(_EMBEDDED / self.file)
        return f"{_REPOSITORY}/{self.revision}/{self.file}"


PUBLISHED: dict[str, Published] = {
    "sdss-galaxies": Published("sdss-galaxies.pt", "05b9a7fb", "sdss", revision=None),
    "sdss-demo": Published("sdss-demo.pt", "0b12d289", "sdss", revision=None),
    "sdss_I": Published("spender.sdss.paperI-08798cbc.pt", "08798cbc", "sdss"),
    "sdss_I_superres": Published("spender.sdss.paperI.superres-0403266c.pt", "0403266c", "sdss"),
    "sdss_II": Published("spender.sdss.paperII-c273bb69.pt", "c273bb69", "sdss"),
    "desi_edr_galaxy": Published("spender.desi-edr.galaxyae-b9bc8d12.pt", "b9bc8d12", "desi"),
    "desi_edr_star": Published("spender.desi-edr.starae-2e33f4e5.pt", "2e33f4e5", "desi"),
}


@dataclass(frozen=True)
class PublishedFlow(Published):
    """A flow of latents that can be named. model: name in `PUBLISHED` of the one that gave the latents."""

    model: str = ""


PUBLISHED_FLOWS: dict[str, PublishedFlow] = {
    "sdss_II_galaxy_flow": PublishedFlow(
        "spender.sdss.paperII.galaxyflow-e6230ef8.pt", "e6230ef8", "sdss", model="sdss_II"
    ),
    "desi_edr_galaxy_flow": PublishedFlow(
        "spender.desi-edr.galaxyflow-b71f8966.pt", "b71f8966", "desi", model="desi_edr_galaxy"
    ),
    "desi_edr_star_flow": PublishedFlow(
        "spender.desi-edr.starflow-a6ff6fcf.pt", "a6ff6fcf", "desi", model="desi_edr_star"
    ),
}
"""Upstream's flows, by the names that its torch.hub entry points have."""


def load_model(file: str | Path, instrument: Instrument, *, sha256: str | None = None) -> tuple[SpectrumModel, Any]:
    """Load a model for an instrument.

    file: a path, an fsspec URL or a name in `PUBLISHED`. instrument: stays as it is; the model holds a copy of it, with
    the line spread function of the checkpoint if that has one. sha256: hex digits that the file's hash must begin with.

    Returns the model, in evaluation mode, and its training and validation losses as the checkpoint has them (None if it
    has none). The entries `architecture` and `arguments` say what is built (see `architectures`). A checkpoint without
    them is a `SpectrumAutoencoder` of any form that was published: one state dict or a list of them (the one of this
    instrument, or the first), a first perceptron layer for 257 inputs (the redshift last; the model then takes it as
    aux), Speculator or leaky-ReLU decoders, `mlp.mlp` keys, with and without the instrument's buffers. WeightsError for
    anything else: an unreadable or executable file, another hash, an architecture that is not installed, missing or
    unknown keys, the grid of another instrument.

    >>> model, losses = load_model("sdss-galaxies", SDSS())
    >>> model.n_latent
    12
    """
    checkpoint = _parse(read_checkpoint(file, sha256), str(file))
    try:
        model = _restore(checkpoint, copy.deepcopy(instrument), str(file))
    except WeightsError:
        raise
    except Exception as error:  # whatever breaks on a malformed state, it is the file that is wrong
        reason = " ".join(str(error).split())
        named = "architecture" in checkpoint
        form = f"of architecture {architecture_of(checkpoint)!r}" if named else "a spender model of a known form"
        raise WeightsError(f"{file}: not {form}: {reason}") from error
    return model.eval(), checkpoint.get("losses")


def architecture_of(checkpoint: Mapping[str, Any]) -> str:
    """Name of the architecture of a checkpoint, given its entries, such as `read_extras` returns them."""
    return str(checkpoint.get("architecture", DEFAULT))


def checkpoint_sha256(file: str | Path) -> str:
    """SHA-256 of a checkpoint's bytes, 64 hex digits; file as in `load_model`."""
    return hashlib.sha256(read_checkpoint(file)).hexdigest()


def read_checkpoint(file: str | Path, sha256: str | None = None) -> bytes:
    """Bytes of a checkpoint; file as in `load_model`. WeightsError if it is not there or its hash is another."""
    name = str(file)
    published = PUBLISHED.get(name)
    if published is None:
        data = _read(name)
    else:
        data = _read_published(name, published)
        _check_hash(data, published.sha256, name)
    if sha256 is not None:
        _check_hash(data, sha256, name)
    return data


def read_flow(file: str) -> bytes:
    """Bytes of a flow of latents: a path, an fsspec URL or a name in `PUBLISHED_FLOWS`. WeightsError as above."""
    published = PUBLISHED_FLOWS.get(file)
    if published is None:
        return _read(file, "flow", PUBLISHED_FLOWS)
    data = _read_published(file, published)
    _check_hash(data, published.sha256, file, "flow")
    return data


def read_extras(file: str | Path, sha256: str | None = None) -> dict[str, Any]:
    """Entries of a checkpoint besides model, losses and training state: `architecture`, `instruments`, `latents`.

    sha256: hex digits that the file's hash must begin with.
    """
    checkpoint = _parse(read_checkpoint(file, sha256), str(file))
    return {k: v for k, v in checkpoint.items() if k not in ("model", "losses", "training")}


def _read(name: str, kind: str = "model", known: Mapping[str, Published] = PUBLISHED) -> bytes:
    try:
        with fsspec.open(os.path.expanduser(name), "rb") as stream:
            data: bytes = stream.read()
    except FileNotFoundError as error:
        raise WeightsError(
            f"{kind} {name!r} is neither a file nor a published {kind}; the published {kind}s are {', '.join(known)}"
        ) from error
    except Exception as error:  # every kind of storage has its own classes
        raise WeightsError(f"{kind} {name!r} cannot be read: {error or type(error).__name__}") from error
    return data


def _read_published(name: str, published: Published) -> bytes:
    """Read through torch.hub's cache folder, where earlier releases of upstream put the same files."""
    if published.revision is None:
        return _fetch(name, published)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / published.file
    if cached.exists():
        data = cached.read_bytes()
        _check_hash(data, published.sha256, str(cached))
        return data
    data = _fetch(name, published)
    _check_hash(data, published.sha256, published.url)
    cached.parent.mkdir(parents=True, exist_ok=True)
    temporary = cached.with_name(f"{cached.name}.{os.getpid()}.part")
    temporary.write_bytes(data)
    os.replace(temporary, cached)
    return data


def _fetch(name: str, published: Published) -> bytes:
    try:
        with fsspec.open(published.url, "rb") as stream:
            data: bytes = stream.read()
    except Exception as error:  # every kind of storage has its own classes; FileNotFoundError: a network that is down
        reason = str(error.__cause__ or error) or type(error).__name__
        raise WeightsError(
            f"model {name!r} could not be fetched from {published.url} ({reason}): try again, or give its file"
        ) from error
    return data


def _check_hash(data: bytes, expected: str, name: str, kind: str = "model") -> None:
    found = hashlib.sha256(data).hexdigest()
    if not found.startswith(expected.lower()):
        raise WeightsError(
            f"{kind} {name!r} has SHA-256 {found[:16]}..., expected {expected[:16]}...: the file is damaged or was"
            " replaced; remove it and fetch it again, or plan again if the change is meant"
        )


# losses may be numpy arrays or numbers; numpy 1 named the module numpy.core
_NUMPY: list[Any] = [
    np.ndarray,
    np.dtype,
    *(type(np.dtype(code)) for code in ("f4", "f8", "i4", "i8")),
    *(
        (getattr(multiarray, function), f"numpy.{module}.multiarray.{function}")
        for function in ("_reconstruct", "scalar")
        for module in ("core", "_core")
    ),
]


def _parse(data: bytes, name: str) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals(_NUMPY), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of pickles that it is about to refuse
            checkpoint = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything on bytes that are not its own
        # not torch's own words, which advise to execute what the file holds
        raise WeightsError(
            f"model {name!r} is not a checkpoint with only tensors ({type(error).__name__}, {len(data)} bytes):"
            " it is another kind of file, is damaged, or holds Python objects, which are never loaded"
        ) from error
    if not isinstance(checkpoint, dict) or "model" not in checkpoint:
        raise WeightsError(f"checkpoint {name!r} has no entry 'model', expected a dictionary with 'model' and 'losses'")
    return checkpoint


def _select(checkpoint: Mapping[str, Any], instrument: Instrument, name: str) -> dict[str, Tensor]:
    """Pick one state dict; half precision is a form of storage only."""
    model, names = checkpoint["model"], checkpoint.get("instruments", [])
    if names and instrument.name not in names:
        raise WeightsError(
            f"model {name!r} was trained for {', '.join(map(str, names))}, not for {instrument.name!r}:"
            " choose another instrument or another model"
        )
    if isinstance(model, list | tuple):
        model = model[names.index(instrument.name) if names else 0]
    if not isinstance(model, Mapping) or not all(isinstance(v, Tensor) for v in model.values()):
        raise WeightsError(f"model {name!r} holds something other than a state dict of tensors")
    broken = [key for key, value in model.items() if not torch.isfinite(value).all()]
    if broken:
        raise WeightsError(f"model {name!r} has weights that are not finite: {', '.join(broken[:3])}")
    return {k: v.float() if v.dtype in (torch.float16, torch.bfloat16) else v for k, v in model.items()}


def _rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the layers of the oldest files their names of today."""
    return {key.replace("mlp.mlp.", "mlp."): value for key, value in state.items()}


def _check_grid(state: dict[str, Tensor], instrument: Instrument, name: str) -> None:
    """Compare the grid that a checkpoint carries with the instrument's, and take it out of the state."""
    state.pop("encoder.instrument.skyline_mask", None)
    wave = state.pop("encoder.instrument.wave_obs", None)
    own = instrument.wave_obs
    if wave is None or (wave.shape == own.shape and torch.allclose(wave.double(), own.double(), rtol=1e-6, atol=0)):
        return
    raise WeightsError(
        f"model {name!r} was trained on {len(wave)} bins, {wave[0]:.1f}-{wave[-1]:.1f} Angstrom, but instrument"
        f" {instrument.name!r} has {len(own)} bins, {own[0]:.1f}-{own[-1]:.1f} Angstrom:"
        " load the model with the instrument that it was trained for"
    )


def _restore(checkpoint: Mapping[str, Any], own: Instrument, name: str) -> SpectrumModel:
    """Build the model of a checkpoint around an instrument that only the model holds."""
    state = _select(checkpoint, own, name)
    legacy = "architecture" not in checkpoint
    if legacy:
        state = _rename(state)
    _check_grid(state, own, name)
    arguments = _legacy_arguments(state, name) if legacy else _arguments(checkpoint, name)
    build = _architecture(checkpoint, name)
    if "decoder.wave_rest" not in state:
        raise WeightsError(f"model {name!r} has no decoder.wave_rest in its state, expected the restframe wavelengths")
    kernel = state.get("encoder.instrument.lsf.weight")
    if kernel is not None:
        own.lsf = LSF(kernel.flatten().flip(0))
    model = build(own, state["decoder.wave_rest"], **arguments)
    for key, value in model.state_dict().items():
        if key.startswith("encoder.instrument."):  # what the caller's instrument brings and the checkpoint lacks
            state.setdefault(key, value)
    model.load_state_dict(state, strict=True)
    return model


def _architecture(checkpoint: Mapping[str, Any], name: str) -> Callable[..., SpectrumModel]:
    try:
        return get_architecture(architecture_of(checkpoint))
    except ValueError as error:
        raise WeightsError(f"model {name!r} cannot be built: {error}") from error


def _arguments(checkpoint: Mapping[str, Any], name: str) -> dict[str, Any]:
    arguments = checkpoint.get("arguments")
    if not isinstance(arguments, Mapping):
        raise WeightsError(f"model {name!r} names its architecture but has no entry 'arguments', expected a dictionary")
    return dict(arguments)


def _legacy_arguments(state: Mapping[str, Tensor], name: str) -> dict[str, Any]:
    """Guess the arguments of a `SpectrumAutoencoder` from the shapes of its state, for files that name none."""
    needed = ("decoder.wave_rest", "decoder.mlp.0.weight", "encoder.mlp.0.weight")
    missing = [key for key in needed if key not in state]
    if missing:
        raise WeightsError(f"{name}: not a spender model, its state has no {', '.join(missing)}")
    n_aux = state["encoder.mlp.0.weight"].shape[1] - N_FEATURE
    if n_aux not in (0, 1):
        raise WeightsError(f"{name}: the encoder's perceptron takes {N_FEATURE + n_aux} inputs, expected 256 or 257")
    n_latent = state["decoder.mlp.0.weight"].shape[1]
    return {"n_latent": n_latent, "n_aux": n_aux, "speculator": "decoder.mlp.1.beta" in state}
