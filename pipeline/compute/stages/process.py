"""What a process that computes keeps between tasks: its arithmetic, its device and its models."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch

from pipeline.errors import ConfigError
from pipeline.planning.model import ModelConfig
from pipeline.store.arrays import code_together
from pipeline.store.checkpoint import read_basis, read_density
from spender_core.density import Density
from spender_core.instrument import get_instrument
from spender_core.latent_fit import Prior
from spender_core.model import SpectrumModel
from spender_core.redshift import RedshiftEstimator
from spender_core.weights import load_model

compute_lock = threading.Lock()
"""Held while a chunk computes: on a worker with several threads the next chunk is read and the last one written
meanwhile, but two never share the device."""

logger = logging.getLogger(__name__)

TURN = 1e-5
"""Seconds that a thread may keep the interpreter while another wants it. Encoding asks for it after each of thousands
of operations (benchmarks/RESULTS.md, "From files to encodings")."""

_CODED_TOGETHER = 32  # inner chunks; by ones, Zarr's default, Python takes as long as compression

# glibc's mallopt: from what size on a block is mapped again each time (32 MiB is its limit), how much free memory it
# keeps, how many pools threads allocate from.
_MALLOC_OPTIONS = {-3: 32 * 2**20, -1: 512 * 2**20, -8: 1}

_DEVICES = ("auto", "cuda", "cpu")

_loading = threading.Lock()
_models: dict[tuple[str, str, str], SpectrumModel] = {}
_fittings: dict[tuple[str, ...], Fitting] = {}
_densities: dict[tuple[str, str], Density] = {}


def make_deterministic() -> None:
    """Make results depend on the inputs only: one thread per operation, deterministic convolutions.

    It does not set the precision, which other threads may be using: `spender_core.precision.arithmetic` does.
    It also sets, for speed, how a process that does two tasks at once shares its interpreter and frees its memory, and
    how many chunks Zarr codes together.

    Threads: sums over several threads differ in their last bits from sums over one, and a Dask worker's default is not
    the main process's. OpenMP keeps the number per calling thread, so every task calls this in its own thread.
    """
    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    sys.setswitchinterval(TURN)
    code_together(_CODED_TOGETHER)
    _keep_memory()


@cache
def _keep_memory() -> None:
    """Have this process keep the memory that it frees, for the next batch; without glibc, do nothing.

    Dask sets MALLOC_TRIM_THRESHOLD_ so that workers give memory back at once: encoding then takes nearly twice as long,
    since every array's pages are asked for, and cleared, again.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    refused = [option for option, value in _MALLOC_OPTIONS.items() if not mallopt(option, value)]
    if refused:
        logger.debug("mallopt refused options %s", refused)


@contextmanager
def deterministic() -> Iterator[None]:
    """Call `make_deterministic`, and restore on leaving what it changed in the caller's process."""
    cudnn = torch.backends.cudnn
    threads = torch.get_num_threads()
    flags = cudnn.benchmark, cudnn.deterministic
    interval = sys.getswitchinterval()
    coded = code_together(_CODED_TOGETHER)
    make_deterministic()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cudnn.benchmark, cudnn.deterministic = flags
        sys.setswitchinterval(interval)
        code_together(coded)


def wanted_device() -> str:
    """Read where this process is to compute: "auto" (default), "cuda" or "cpu", from SPENDER_DEVICE."""
    wanted = os.environ.get("SPENDER_DEVICE", "auto")
    if wanted not in _DEVICES:
        raise ConfigError("SPENDER_DEVICE", wanted, f"one of {', '.join(_DEVICES)}")
    return wanted


def device() -> torch.device:
    """Say where this process computes: its first CUDA device, else the CPU. Raises ConfigError; see wanted_device."""
    wanted = wanted_device()
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("SPENDER_DEVICE", wanted, "a CUDA device", "check the driver and the image, or unset it")
    return torch.device("cpu") if wanted == "cpu" or not torch.cuda.is_available() else torch.device("cuda", 0)


def device_name(where: torch.device) -> str:
    """Name what made a result, for its record: "cpu" or the GPU's model."""
    return torch.cuda.get_device_name(where) if where.type == "cuda" else where.type


@dataclass(frozen=True)
class Fitting:
    """What redshifts and latents are fitted with: on this process's device."""

    estimator: RedshiftEstimator
    prior: Prior


def load_fitting(root: str, config: ModelConfig, instrument: str) -> Fitting:
    """Read what a plan's model fits with, once per process. Raises ConfigError where ROOT lacks it."""
    where = device()
    key = (config.basis or "", str(config.redshift_range), instrument, str(where))
    with _loading:
        if key not in _fittings:
            basis = read_basis(root, config)
            estimator = RedshiftEstimator(get_instrument(instrument), basis.templates, config.redshift_range or (0, 1))
            _fittings[key] = Fitting(estimator.to(where), basis.prior.to(where))
        return _fittings[key]


def load_density(root: str, config: ModelConfig) -> Density:
    """Read the density of a plan's model, once per process. Raises ConfigError where ROOT lacks it."""
    where = device()
    key = (config.density_sha256 or "", str(where))
    with _loading:
        if key not in _densities:
            _densities[key] = read_density(root, config).to(where)
        return _densities[key]


def load(config: ModelConfig, instrument: str) -> SpectrumModel:
    """Load a plan's model onto this process's device, once per process.

    Raises spender_core's WeightsError if the checkpoint is no longer the one that was planned (SHA-256).
    """
    where = device()
    key = (config.sha256 or config.checkpoint, instrument, str(where))
    with _loading:
        if key not in _models:
            model, _ = load_model(config.checkpoint, get_instrument(instrument), sha256=config.sha256)
            _models[key] = model.to(where).eval()
        return _models[key]
