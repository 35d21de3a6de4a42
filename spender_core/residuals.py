"""Where a model does not describe spectra: the worst run of pixels, and how well each restframe region fits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

RUN = 20
"""Pixels of a run: 1400 km/s where a pixel has 69 km/s, which is wider than narrow lines and cosmic rays."""

LONGEST_SPAN = 2 * RUN
"""Pixels of the grid that a run may reach over: beyond that its two ends are no one feature."""


@dataclass(frozen=True)
class Residuals:
    """Differences between N spectra and their models, in units of their errors. Nothing is computed before it is asked.

    flux, reconstruction: shape (N, L). weight: shape (N, L), inverse variance, 0 where nothing is compared. z: shape
    (N,). wave: shape (L,), observed Angstrom. edges: K ascending lower ends of regions, restframe Angstrom, the first
    0. All that is computed of a spectrum depends on that spectrum alone: sums are made of the same terms in the same
    order in any batch. All on one device.
    """

    flux: Tensor
    weight: Tensor
    reconstruction: Tensor
    z: Tensor
    wave: Tensor
    edges: tuple[float, ...]

    @cached_property
    def pull(self) -> Tensor:
        """Differences over their errors, shape (N, L), 0 where nothing is compared."""
        difference = (self.flux - self.reconstruction) * torch.sqrt(self.weight)
        return torch.where(self.weight > 0, difference, 0)

    @cached_property
    def region_chi2(self) -> Tensor:
        """Mean squared pull of each region, shape (N, K), NaN where it has fewer pixels than a run."""
        rest = self.wave.double() / (1 + self.z.double())[:, None]
        region = torch.bucketize(rest, torch.tensor(self.edges[1:], dtype=torch.float64, device=rest.device))
        squared, found = self.pull**2, []
        for number in range(len(self.edges)):
            inside = (region == number) & (self.weight > 0)
            n = torch.count_nonzero(inside, dim=1)
            total = torch.where(inside, squared, 0).sum(dim=1)
            found.append(torch.where(n >= RUN, total / n, torch.nan))
        return torch.stack(found, dim=1)

    @property
    def run_significance(self) -> Tensor:
        """Significance of the worst run, shape (N,), positive where the flux is above the model; see `_worst_run`."""
        return self._worst_run[0]

    @property
    def run_wavelength(self) -> Tensor:
        """Middle of the worst run, shape (N,), observed Angstrom."""
        return self._worst_run[1]

    @cached_property
    def _worst_run(self) -> tuple[Tensor, Tensor]:
        """Significance and middle of the worst run of each spectrum, NaN where there is none.

        Of all runs of 20 compared pixels, other ones left out, the one whose mean pull is farthest from that of the 20
        on either side, in units of the error of this difference: the matched filter of an offset from its surroundings.
        A continuum that the model misses everywhere is none; its chi2 says so. Where the other pixels of the spectrum
        scatter more than their errors say, the offset counts less by that factor.
        """
        pull, place, n = self._compared()
        size = pull.shape[1] - RUN + 1
        if size < 1:
            nothing = torch.full_like(self.z, torch.nan, dtype=torch.float32)
            return nothing, nothing
        offset = _offsets(sums(pull), n)
        is_run = torch.arange(size, device=n.device) + RUN <= n[:, None]
        is_run &= place[:, RUN - 1 :] - place[:, :size] < LONGEST_SPAN
        highest, first = torch.where(is_run, offset.abs(), -1).max(dim=1)
        own = first[:, None] + torch.arange(RUN, device=n.device)
        others = (pull**2).sum(dim=1) - (pull.gather(1, own) ** 2).sum(dim=1)
        scatter = torch.sqrt((others / (n - RUN).clamp(min=1)).clamp(min=1))
        significance = offset.gather(1, first[:, None])[:, 0] / scatter
        middle = self.wave[place.gather(1, own[:, RUN // 2 - 1 : RUN // 2 + 1])].double().mean(dim=1)
        # NaN of a spectrum whose model is not finite is kept: it is no -1
        some = highest != -1
        return torch.where(some, significance, torch.nan), torch.where(some, middle.float(), torch.nan)

    def _compared(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the pulls of the compared pixels, moved to the front, their pixels, both (N, L), and their number."""
        used = self.weight > 0
        size = used.shape[1]
        count = torch.cumsum(used, dim=1)
        slot = torch.where(used, count - 1, size)  # others go behind the end, where nobody looks
        pixel = torch.arange(size, device=used.device).expand_as(slot)
        pull = self.pull.new_zeros(len(used), size + 1).scatter(1, slot, self.pull)
        place = pixel.new_zeros(len(used), size + 1).scatter(1, slot, pixel)
        return pull[:, :size], place[:, :size], count[:, -1]


def sums(values: Tensor) -> Tensor:
    """Return the sums of all runs of 20 neighbors, shape (N, L) -> (N, L - 19), of 2, 4, 8 and 16 in turn."""
    two = values[:, :-1] + values[:, 1:]
    four = two[:, :-2] + two[:, 2:]
    eight = four[:, :-4] + four[:, 4:]
    sixteen = eight[:, :-8] + eight[:, 8:]
    return sixteen[:, :-4] + four[:, 16:]


def _offsets(total: Tensor, n: Tensor) -> Tensor:
    """Return how far runs are from the ones on either side of them, in units of the error of the difference.

    total: shape (N, M), sums of runs, of which those from the first n - 20 on, shape (N,), are no runs. A run without
    another one on a side is compared with that on the other side, one without any with 0.
    """
    size = total.shape[1]
    place = torch.arange(size, device=n.device)
    before, after = torch.zeros_like(total), torch.zeros_like(total)
    before[:, RUN:] = total[:, : max(size - RUN, 0)]
    after[:, : max(size - RUN, 0)] = total[:, RUN:]
    has_after = place + 2 * RUN <= n[:, None]
    sides = (place >= RUN).to(total.dtype) + has_after.to(total.dtype)
    around = (before + torch.where(has_after, after, 0)) / sides.clamp(min=1)
    error = torch.sqrt(RUN * (1 + torch.where(sides > 0, 1 / sides.clamp(min=1), 0)))
    return (total - around) / error
