"""Batches of real galaxies and mocks, altered at random: moved in redshift, with more noise, with a part hidden."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from galaxies import Galaxies
from guided import Shares
from mocks import Mocks
from numpy.typing import NDArray
from torch import Tensor

from spender_core.dataset import Batch, Split


class _Blend:
    """Batches of mocks of the training galaxies, mocks of broad priors, and these galaxies."""

    def __init__(
        self, galaxies: Galaxies, rows: NDArray[np.intp], mocks: Mocks, prior: Mocks, seed: int, what: str
    ) -> None:
        spec, w, z = (torch.from_numpy(a[rows]).to(mocks.device) for a in (galaxies.flux, galaxies.ivar, galaxies.z))
        self._real = Batch(spec, w, z)
        self._mocks, self._prior, self._seed = mocks, prior, seed
        names = " ".join(galaxies.names[i] for i in rows)
        self.identity = f"{what}, galaxies {names} and {mocks.identity}, {prior.identity}"

    def steps(self, split: Split, batch_size: int) -> int:
        """Batches per epoch; nothing is held back for validation."""
        return self._mocks.steps(split, batch_size) if split == "train" else 0

    def _galaxies(self, n: int, rng: torch.Generator) -> Batch:
        take = torch.randint(len(self._real), (n,), generator=rng, device=rng.device)
        return Batch(self._real.spec[take], self._real.w[take], self._real.z[take])


class RealAndMock(_Blend):
    """Half mocks of the training galaxies, half these galaxies, each in two altered copies.

    hidden: share of the mocks and of the second copies that lose a part of their spectrum.
    """

    def __init__(
        self, galaxies: Galaxies, rows: NDArray[np.intp], mocks: Mocks, prior: Mocks, seed: int, hidden: float = 0.0
    ) -> None:
        super().__init__(galaxies, rows, mocks, prior, seed, f"{hidden} hidden")
        self._hidden = hidden

    def batches(self, split: Split, epoch: int, batch_size: int, begin: int = 0) -> Iterator[Batch]:
        """Yield mixed batches: mocks, then the galaxies' first copies, then their second ones."""
        for i in range(begin, self.steps(split, batch_size)):
            rng = self._mocks.generator((self._seed, epoch, i, 3))
            half, quarter = batch_size // 2, batch_size // 4
            mock = [self._mocks.draw(half - half // 4, rng), self._prior.draw(half // 4, rng)]
            real = self._galaxies(quarter, rng)
            first, second = altered(real, rng), altered(real, rng)
            if self._hidden:
                *mock, second = (hide(part, self._hidden, rng) for part in (*mock, second))
            yield joined([*mock, first, second], mock)


def hide(batch: Batch, share: float, rng: torch.Generator) -> Batch:
    """Hide a part of some spectra as if it had not been observed: the blue half, an end, or a gap."""
    n, n_bin = batch.spec.shape
    place = torch.arange(n_bin, device=rng.device)
    kind = torch.randint(4, (n, 1), generator=rng, device=rng.device)
    cut = 0.6 * n_bin * torch.rand((n, 1), generator=rng, device=rng.device)
    gap = (place > 1.4 * cut) & (place < 1.4 * cut + 0.15 * n_bin)
    ends = torch.where(kind == 1, place < cut, place > n_bin - cut)
    part = torch.where(kind == 0, place < n_bin // 2, torch.where(kind == 3, gap, ends))
    part = part & (torch.rand((n, 1), generator=rng, device=rng.device) < share)
    return Batch(batch.spec.masked_fill(part, 0), batch.w.masked_fill(part, 0), batch.z, truth=batch.truth)


def altered(batch: Batch, rng: torch.Generator) -> Batch:
    """Add noise and shift by whole bins, which is a change of redshift on a logarithmic grid."""
    spec, w, z = batch.spec, batch.w, batch.z
    n, n_bin = spec.shape

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=rng, device=rng.device)

    extra = 1.2 * uniform(n, 1) * (uniform(n, 1) < 0.6)
    sigma = torch.where(w > 0, w.clamp_min(1e-12).rsqrt(), 0) * extra
    spec = spec + sigma * torch.randn(spec.shape, generator=rng, device=rng.device)
    w = w / (1 + extra**2)
    low, high = (1 + (z - 0.1).clamp(min=0)) / (1 + z), (1 + (z + 0.1).clamp(max=0.5)) / (1 + z)
    wanted = (low + (high - low) * uniform(n)).log10() / 1e-4
    shift = torch.where(uniform(n) < 0.85, wanted, 0.0).round().long()
    place = torch.arange(n_bin, device=spec.device) - shift[:, None]
    inside = (place >= 0) & (place < n_bin)
    place = place.clamp(0, n_bin - 1)
    spec, w = spec.gather(1, place) * inside, w.gather(1, place) * inside
    return Batch(spec, w, (1 + z) * (10 ** (1e-4 * shift.double())).float() - 1)


class Pairs(_Blend):
    """Mocks in pairs, mocks with a part hidden, real galaxies in pairs; a fourth of the mocks are of broad priors."""

    def __init__(
        self, galaxies: Galaxies, rows: NDArray[np.intp], mocks: Mocks, prior: Mocks, seed: int, shares: Shares
    ) -> None:
        super().__init__(galaxies, rows, mocks, prior, seed, str(shares))
        self._shares = shares

    def batches(self, split: Split, epoch: int, batch_size: int, begin: int = 0) -> Iterator[Batch]:
        """Yield batches: mocks, the same moved, others with a part hidden, galaxies moved, the same moved differently.

        `truth` is that of the first and the third. Raises ValueError for a size that is not that of the shares.
        """
        if batch_size != self._shares.total:
            raise ValueError(f"a batch of pairs has {self._shares.total} spectra, not {batch_size}")
        for i in range(begin, self.steps(split, batch_size)):
            rng = self._mocks.generator((self._seed, epoch, i, 5))
            mock = self._mixed(self._shares.pairs, rng)
            copy = altered(mock, rng)
            hidden = hide(self._mixed(self._shares.hidden, rng), 1.0, rng)
            real = self._galaxies(self._shares.real, rng)
            yield joined([mock, copy, hidden, altered(real, rng), altered(real, rng)], [mock, hidden])

    def _mixed(self, n: int, rng: torch.Generator) -> Batch:
        parts = [self._mocks.draw(n - n // 4, rng), self._prior.draw(n // 4, rng)]
        return joined(parts, parts)


def joined(parts: Sequence[Batch], known: Sequence[Batch]) -> Batch:
    """Put batches one after the other, with the true restframes of those known."""
    spec, w, z = (torch.cat([getattr(part, name) for part in parts]) for name in ("spec", "w", "z"))
    return Batch(spec, w, z, truth=torch.cat([part.truth for part in known if part.truth is not None]))
