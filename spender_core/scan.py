"""Scan: how well templates fit spectra at every redshift of a grid, in whole pixels of a logarithmic one.

At a shift q of the templates t_k against a spectrum y of inverse variance w, the best linear combination leaves
chi2 = sum w y^2 - b^T M^-1 b with M_kl(q) = sum_i w_i t_k(i + q) t_l(i + q) and b_k(q) = sum_i w_i y_i t_k(i + q).
These are cross-correlations, which Fourier transforms give at all q at once. Pixels that a template does not reach have
t = 0, and keep all their chi2. In float64: the sums are a million times larger than the differences that decide.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .templates import LOG_STEP, Templates

_RELATIVE = 1e-8
"""Share of a template that must be left when the others are taken off it; else it is left out at this shift."""

_ROUNDING = 1e-11
"""Share of the weight that a template has elsewhere, below which it is what Fourier transforms make of none."""


class Scan(ABC):
    """Templates of one kind in front of an observed grid.

    templates: what is compared. start: log10 of the first observed wavelength. n_pixels: length L of the observed
    grid, in steps of LOG_STEP. z_range: redshifts to scan, first and last. binning: pixels taken together.
    """

    def __init__(
        self, templates: Templates, start: float, n_pixels: int, z_range: tuple[float, float], binning: int = 1
    ) -> None:
        self.kind = templates.kind
        self.binning = binning
        self.n_pixels = -(-n_pixels // binning)
        self._step = LOG_STEP * binning
        whole = templates.flux.shape[1] // binning * binning
        flux = summed(templates.flux[:, :whole].double(), binning) / binning
        # taken together, bins of both grids move their centers alike
        offset = (start - templates.start) / self._step
        fraction = offset - round(offset)
        first, last = (round(math.log10(1 + z) / self._step - fraction) for z in z_range)
        n_shifts = last - first + 1
        if n_shifts < 3:
            raise ValueError(f"z_range {z_range} is narrower than three pixels")
        shifts = torch.arange(first, last + 1, dtype=torch.float64) + fraction
        self.log_stretch = shifts * self._step
        """log10(1 + z) of the grid's M redshifts, shape (M,), rising."""
        self._prepare(_segment(flux, round(offset) - last, self.n_pixels + n_shifts - 1))

    @property
    def step(self) -> float:
        """The step of the grid, in log10(1 + z)."""
        return self._step

    @abstractmethod
    def _prepare(self, segment: Tensor) -> None:
        """Keep of the templates, on the bins that any shift needs, what is the same for all spectra."""

    @abstractmethod
    def gain(self, w: Tensor, wy: Tensor) -> Tensor:
        """How much of sum w y^2 the best fit takes away at each redshift: shape (N, M), float64.

        w, wy: shape (N, L), float64, inverse variance, and the same times the flux.
        """

    def to(self, device: torch.device) -> Scan:
        """Move what is kept to a device."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        return self


class LinearScan(Scan):
    """Scan by all linear combinations of the templates and a polynomial in log10(wavelength) of a degree."""

    def __init__(
        self,
        templates: Templates,
        start: float,
        n_pixels: int,
        z_range: tuple[float, float],
        binning: int = 1,
        degree: int = 0,
    ) -> None:
        self._degree = degree
        super().__init__(templates, start, n_pixels, z_range, binning)

    def _prepare(self, segment: Tensor) -> None:
        reach = (segment != 0).any(dim=0)
        # shifted, a polynomial is one of the same degree
        x = torch.linspace(-1, 1, segment.shape[1], dtype=torch.float64)
        components = torch.cat([torch.stack([reach * x**p for p in range(self._degree + 1)]), segment])
        n = len(components)
        self._pairs = [(i, j) for i in range(n) for j in range(i, n)]
        self._length = fast_length(segment.shape[1])
        products = torch.stack([components[i] * components[j] for i, j in self._pairs])
        self._products = torch.fft.rfft(products, self._length)
        self._components = torch.fft.rfft(components, self._length)

    def gain(self, w: Tensor, wy: Tensor) -> Tensor:
        """See `Scan.gain`."""
        w, wy = summed(w, self.binning), summed(wy, self.binning)
        matrix = self._correlate(w, self._products)
        vector = self._correlate(wy, self._components)
        return explained({pair: matrix[:, k] for k, pair in enumerate(self._pairs)}, list(vector.unbind(1)))

    def _correlate(self, x: Tensor, transformed: Tensor) -> Tensor:
        """Correlate with each of the transformed, shape (N, L) and (K, F) -> (N, K, M), in order of rising redshift."""
        product = torch.fft.rfft(x, self._length).conj()[:, None] * transformed
        correlated: Tensor = torch.fft.irfft(product, self._length)
        return correlated[..., : len(self.log_stretch)].flip(-1)


class AlternativesScan(Scan):
    """Scan by one template at a time, times a parabola in log10(wavelength) of sum: flux = a t + b + c x + d x^2.

    For a few redshifts only: what depends on the templates alone is kept for each of them.
    """

    def _prepare(self, segment: Tensor) -> None:
        windows = segment.unfold(1, self.n_pixels, 1).flip(1)  # (A, M, L)
        self._flux = windows.reshape(-1, self.n_pixels)  # (A M, L)
        self._n_templates = len(segment)
        x = torch.linspace(-1, 1, self.n_pixels, dtype=torch.float64)
        self._powers = torch.stack([x**p for p in range(5)])

    def gain(self, w: Tensor, wy: Tensor) -> Tensor:
        """See `Scan.gain`."""
        w, wy = summed(w, self.binning), summed(wy, self.binning)
        moments = w @ self._powers.T  # (N, 5): sums of w x^p
        weighted = w[:, None] * self._powers[:3]  # (N, 3, L)
        crossed = torch.matmul(weighted.flatten(0, 1), self._flux.T).view(len(w), 3, -1)
        squared = w @ (self._flux**2).T
        matrix = {(0, 0): squared, **{(0, 1 + p): crossed[:, p] for p in range(3)}}
        for p in range(3):
            for q in range(p, 3):
                matrix[1 + p, 1 + q] = moments[:, p + q, None].expand_as(squared)
        first = wy @ self._flux.T
        vector = [first, *((wy @ self._powers[p])[:, None].expand_as(first) for p in range(3))]
        # the powers come first: what is left of a template without them is what tells it from others
        order = [1, 2, 3, 0]
        turned = {
            (i, j): matrix[min(order[i], order[j]), max(order[i], order[j])] for i in range(4) for j in range(i, 4)
        }
        gain = explained(turned, [vector[i] for i in order])
        return gain.view(len(w), self._n_templates, -1).amax(dim=1)


def scan_of(
    templates: Templates, start: float, n_pixels: int, z_range: tuple[float, float], binning: int = 1, degree: int = 0
) -> Scan:
    """Make the scan that templates need; arguments as for `Scan`. degree: of what is added to combinations of all."""
    if templates.alternatives:
        return AlternativesScan(templates, start, n_pixels, z_range, binning)
    return LinearScan(templates, start, n_pixels, z_range, binning, degree)


def explained(matrix: dict[tuple[int, int], Tensor], vector: Sequence[Tensor]) -> Tensor:
    """b^T M^-1 b of many small systems at once, by Cholesky's method.

    matrix: the elements M_ij for i <= j, each of one shape, redshifts last. vector: the elements b_i, of that shape. A
    component that the ones before it make up, or that has no weight at a redshift, is left out there.
    """
    n = len(vector)
    factor: dict[tuple[int, int], Tensor] = {}
    solved: list[Tensor] = []
    total = torch.zeros_like(vector[0])
    for i in range(n):
        for j in range(i):
            value = matrix[j, i].clone()
            for k in range(j):
                value -= factor[i, k] * factor[j, k]
            factor[i, j] = value * factor[j, j]
        left = matrix[i, i].clone()
        for k in range(i):
            left -= factor[i, k].square()
        own = matrix[i, i]
        is_free = (left > _RELATIVE * own) & (own > _ROUNDING * own.amax(dim=-1, keepdim=True))
        factor[i, i] = torch.where(is_free, left, torch.inf).rsqrt()  # the inverse of Cholesky's
        value = vector[i].clone()
        for k in range(i):
            value -= factor[i, k] * solved[k]
        solved.append(value * factor[i, i])
        total += solved[i].square()
    return total


def fast_length(n: int) -> int:
    """Smallest length from n on with no prime factors but 2, 3 and 5: Fourier transforms of it are fast."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1


def _segment(flux: Tensor, first: int, length: int) -> Tensor:
    """Cut bins `first` to `first + length` of templates, shape (K, T); 0 where they have none."""
    segment = flux.new_zeros(len(flux), length)
    begin, end = max(first, 0), min(first + length, flux.shape[1])
    if begin < end:
        segment[:, begin - first : end - first] = flux[:, begin:end]
    return segment


def summed(x: Tensor, binning: int) -> Tensor:
    """Add up bins taken together, shape (N, L) -> (N, L / binning); the last sum may be of fewer."""
    if binning == 1:
        return x
    missing = -x.shape[1] % binning
    whole = functional.pad(x, (0, missing))
    return whole.reshape(len(x), -1, binning).sum(dim=2)
