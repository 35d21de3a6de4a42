"""Augmented copies of spectra: moved in redshift, noised and partly blocked, reproducibly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

STREAM = 0x61756776  # keeps these random numbers apart from any others that the same seed, epoch and row give


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a copy of a spectrum. `SDSS` and `DESI` are those of upstream's scripts.

    dz: largest change of redshift; z_low, z_high: bounds of the new one, which is uniform in between.
    noisy: share of the pixels that get noise of `noise` times the spectrum's largest flux.
    block: share of the pixels in one contiguous block that is set to 0.
    degrade: every pixel gets noise of up to this many of its own standard deviations, one factor per spectrum; 2 lowers
    the signal to noise by up to sqrt(5). ValueError where a value makes no sense.
    """

    SDSS: ClassVar[Augmentation]
    DESI: ClassVar[Augmentation]

    dz: float = 0.5
    z_low: float = 0.0
    z_high: float = 0.5
    noisy: float = 0.05
    noise: float = 0.2
    block: float = 0.05
    degrade: float = 0.0

    def __post_init__(self) -> None:
        if not -1 < self.z_low <= self.z_high:
            raise ValueError(f"z_low and z_high are {self.z_low} and {self.z_high}, expected -1 < z_low <= z_high")
        for name in ("dz", "noise", "degrade"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 or more")
        for name in ("noisy", "block"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a share of the pixels, 0 to 1")


Augmentation.SDSS = Augmentation()
Augmentation.DESI = Augmentation(dz=0.8, z_high=0.8, block=0.0)


@torch.no_grad()
def augmented(
    spec: Tensor,
    w: Tensor,
    z: Tensor,
    rows: Tensor,
    wave_obs: Tensor,
    augmentation: Augmentation,
    seed: int,
    epoch: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Make augmented copies of spectra: flux and inverse variance, each shape (N, L), and redshift, shape (N,).

    spec, w: shape (N, L) on wave_obs, shape (L,), Angstrom, increasing; w is 0 where there is no valid pixel.
    z: shape (N,), finite. rows: shape (N,), int64, the row of each spectrum in its sample. Any device; dtypes are kept.
    A copy depends on its spectrum and on (seed, epoch, row) only, bit for bit, not on the batch it is made in.
    Flux is interpolated linearly between the two pixels that a bin falls between, variance likewise (`_moved`).
    Beyond the spectrum's first and last valid pixel, and in the block, flux and weight are 0: nothing is extrapolated.
    A noisy pixel with the added flux n has the variance 1/w + n^2, as in upstream's scripts.
    """
    draws = _draw(rows.cpu().numpy(), spec.shape[1], augmentation, seed, epoch)
    low = (z - augmentation.dz).clamp(augmentation.z_low, augmentation.z_high)
    high = (z + augmentation.dz).clamp(augmentation.z_low, augmentation.z_high)
    z_new = torch.minimum(low + (high - low) * torch.from_numpy(draws.place).to(z), high)
    flux, weight, has_data = _moved(spec, w, (1 + z.double()) / (1 + z_new.double()), wave_obs)

    # of valid pixels: a cosmic ray that is masked must not set the level
    brightest = torch.where(w > 0, spec, 0).amax(dim=1, keepdim=True)
    added = augmentation.noise * brightest * torch.from_numpy(draws.noise).to(spec)
    flux = torch.where(has_data, flux + added, 0)
    weight = weight / (1 + weight * added.square())
    if draws.own_noise is not None:
        deviations = torch.from_numpy(draws.own_noise).to(spec)
        flux = flux + torch.where(weight > 0, deviations / weight.sqrt(), 0)
        weight = weight / (1 + torch.from_numpy(draws.factor).to(spec)[:, None].square())

    column = torch.arange(spec.shape[1], device=spec.device)
    start = torch.from_numpy(draws.start).to(spec.device)[:, None]
    blocked = (column >= start) & (column < start + draws.length)
    return flux.masked_fill_(blocked, 0), weight.masked_fill_(blocked, 0), z_new


def _moved(spec: Tensor, w: Tensor, stretch: Tensor, wave_obs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Read spectra at wave_obs times stretch, shape (N,): flux, weight, and whether there are data, each (N, L).

    Variances are interpolated as the flux is: v = (1 - t) v0 + t v1. That of the mean of two independent pixels,
    (1 - t)^2 v0 + t^2 v1, is smaller; but the next bin shares a pixel with this one, so that counting both in full
    would give a copy more information than its spectrum has. The weight lies between those of the two pixels, and is 0
    beside a masked one; flux kept in masked pixels between valid ones is moved along, as the encoder sees it.
    """
    size = len(wave_obs)
    wave = wave_obs.double()
    at = wave * stretch[:, None]
    left = (torch.searchsorted(wave, at, right=True) - 1).clamp_(0, size - 1)
    right = (left + 1).clamp_(max=size - 1)
    t = (at - wave[left]) / (wave[right] - wave[left]).clamp_(min=torch.finfo(wave.dtype).tiny)
    right = torch.where(t == 0, left, right)  # exactly on a pixel: the next one does not matter, masked or not

    is_valid = w > 0
    first = is_valid.int().argmax(dim=1, keepdim=True)
    last = size - 1 - is_valid.flip(1).int().argmax(dim=1, keepdim=True)
    has_data = (
        (at >= wave[0]) & (at <= wave[-1]) & (left >= first) & (right <= last) & is_valid.any(dim=1, keepdim=True)
    )

    t = t.to(spec.dtype)
    y0, y1 = spec.gather(1, left), spec.gather(1, right)
    flux = torch.where(has_data, y0 + (y1 - y0) * t, 0)
    w0, w1 = w.gather(1, left), w.gather(1, right)
    between = w0 * (w1 / ((1 - t) * w1 + t * w0))
    # the minimum: rounding may lift the mean of two equal numbers above both
    weight = torch.where(has_data & (w0 > 0) & (w1 > 0), torch.minimum(between, torch.maximum(w0, w1)), 0)
    return flux, weight, has_data


@dataclass(frozen=True)
class _Draws:
    """Random numbers of N spectra of L pixels.

    place: (N,), where in its range the new redshift lies, 0 to 1. start: (N,), first pixel of the block of this length.
    noise: (N, L), in units of its amplitude, 0 in most pixels. factor: (N,), and own_noise: (N, L), in units of each
    pixel's standard deviation; None where none is asked for.
    """

    place: NDArray[np.float64]
    start: NDArray[np.int64]
    length: int
    noise: NDArray[np.float32]
    factor: NDArray[np.float64]
    own_noise: NDArray[np.float32] | None


def _draw(rows: NDArray[np.int64], size: int, augmentation: Augmentation, seed: int, epoch: int) -> _Draws:
    """Draw from one random stream per row: seed, row and epoch are the key and the counter of Philox."""
    scalars = np.empty((len(rows), 3))
    noise = np.zeros((len(rows), size), np.float32)
    own = np.empty((len(rows), size), np.float32) if augmentation.degrade > 0 else None
    word = 2**64 - 1
    for i, row in enumerate(rows.tolist()):
        key = np.array([seed & word, row & word], np.uint64)
        counter = np.array([0, 0, epoch & word, STREAM], np.uint64)
        rng = np.random.Generator(np.random.Philox(key=key, counter=counter))
        scalars[i] = rng.random(3)
        noisy = np.flatnonzero(rng.random(size, np.float32) < augmentation.noisy)
        noise[i, noisy] = rng.standard_normal(len(noisy), np.float32)
        if own is not None:
            own[i] = augmentation.degrade * scalars[i, 2] * rng.standard_normal(size, np.float32)
    length = int(augmentation.block * size)
    start = (scalars[:, 1] * (size - length + 1)).astype(np.int64)
    return _Draws(scalars[:, 0].copy(), start, length, noise, augmentation.degrade * scalars[:, 2], own)
