"""Redshifts of spectra by templates, mostly those of a model's decoder: best fit, error, runner-up and warnings.

The method of redrock (https://github.com/desihub/redrock), with whole scans by Fourier transforms: linear templates are
fitted at every redshift, the lowest chi2 is the answer, and how far it lies below the next best says how sure it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntFlag

import torch
from torch import Tensor

from .instrument import Instrument
from .resample import spacing
from .scan import Scan, scan_of
from .templates import LOG_STEP, Templates, of_quasars, of_stars

C = 299_792.458
"""Speed of light, km/s."""

APART = 1000.0
"""Minima this far apart, in km/s, are different answers (redrock)."""

DELTA_CHI2 = 16.0
"""A runner-up within this of the lowest chi2 is as likely as not: SMALL_DELTA_CHI2 (set on mocks, RESULTS.md)."""

FLOOR = 5.0
"""Error that no redshift is below, km/s: wavelength scale, and templates that are no galaxy (RESULTS.md)."""

SCALE = 1.25
"""Scatter of redshifts over the error that the parabola through whole pixels gives, at any S/N (RESULTS.md)."""

LEAST_PIXELS = 500
"""Fewer weighted pixels set LITTLE_COVERAGE."""

QUASARS = (0.0, 4.0)
STARS = (-0.004, 0.004)
"""Redshifts of quasars and stars that are scanned; stars: +-1200 km/s."""

BINNING = 4
"""Pixels that are taken together for quasars and stars, whose class is asked for more than their redshift."""

DEGREE = 2
"""Of the polynomial that is fitted with the model's templates, as the SDSS pipeline does: flux calibration, dust, and
continua that no decoder makes. Without it featureless galaxies are taken for stars (RESULTS.md)."""

OTHERS = 10.0
"""How much less chi2 another kind of object than the model's must have: rarer, and more ways to fit noise."""

BLOCK = {"cpu": 16, "cuda": 128}
"""Spectra that are scanned at once on a device: their cross-correlations are some 4 MB each."""


class ZWarning(IntFlag):
    """What speaks against a redshift; values of redrock's ZWARN."""

    LITTLE_COVERAGE = 2
    SMALL_DELTA_CHI2 = 4
    Z_FITLIMIT = 32
    NODATA = 512
    BAD_MINFIT = 1024


@dataclass(frozen=True)
class Redshifts:
    """Answers for N spectra, each shape (N,).

    z, error: float64, NaN without data. chi2: of the best linear fit. delta_chi2: of the runner-up, the best minimum
    more than `APART` away, of any kind of object, less chi2, kinds but the model's own set back by `OTHERS`; NaN where
    there is none, below 0 where a redshift beyond the window that was asked for fits better. second: its redshift.
    warning: int32, bits of `ZWarning`. kind: int8, places in `RedshiftEstimator.kinds`, -1 without data.
    """

    z: Tensor
    error: Tensor
    chi2: Tensor
    delta_chi2: Tensor
    second: Tensor
    warning: Tensor
    kind: Tensor


class RedshiftEstimator:
    """Finds redshifts of one instrument's spectra.

    instrument: whose grid the spectra are on. own: the templates of the model, scanned over z_range. others: of other
    kinds of objects, with their ranges; by default quasars and stars. delta_chi2: see `DELTA_CHI2`. ValueError for a
    grid that is uniform neither in wavelength nor in its logarithm, and for a range of redshifts that is too narrow.
    """

    def __init__(
        self,
        instrument: Instrument,
        own: Templates,
        z_range: tuple[float, float],
        others: Sequence[tuple[Templates, tuple[float, float]]] | None = None,
        delta_chi2: float = DELTA_CHI2,
    ) -> None:
        self._bins = LogBins(instrument)
        if others is None:
            others = [(of_quasars(), QUASARS), (of_stars(), STARS)]
        others = [(templates, reach) for templates, reach in others if templates.kind != own.kind]
        size = self._bins.start, self._bins.count
        self.scans: list[Scan] = [
            scan_of(own, *size, z_range, degree=DEGREE),
            *(scan_of(templates, *size, reach, BINNING) for templates, reach in others),
        ]
        self._threshold = delta_chi2

    @property
    def kinds(self) -> list[str]:
        """Kinds of objects, the model's own first."""
        return [scan.kind for scan in self.scans]

    def to(self, device: torch.device) -> RedshiftEstimator:
        """Move what is kept to a device."""
        self._bins.to(device)
        for scan in self.scans:
            scan.to(device)
        return self

    def curves(self, flux: Tensor, ivar: Tensor) -> list[Tensor]:
        """chi2 at every redshift of each kind's grid (`Scan.log_stretch`), shape (N, M) each, float64.

        flux, ivar: shape (N, L), in any unit; ivar is 0 where masked.
        """
        total, w, wy = self._bins(flux, ivar)
        return [total[:, None] - scan.gain(w, wy) for scan in self.scans]

    def __call__(self, flux: Tensor, ivar: Tensor, near: Tensor | None = None, window: float = 0.0) -> Redshifts:
        """Find redshifts.

        flux, ivar: shape (N, L), at least one, in any unit; ivar is 0 where masked. near: shape (N,), redshifts to stay
        within `window` of, in km/s; only the model's own templates are compared then, and the runner-up may lie
        anywhere in their range. None: the whole range.
        """
        kept = self.scans if near is None else self.scans[:1]
        answers = []
        block = BLOCK[flux.device.type]
        for rows in range(0, len(flux), block):
            part = slice(rows, rows + block)
            total, w, wy = self._bins(flux[part], ivar[part])
            curves = [total[:, None] - scan.gain(w, wy) for scan in kept]
            minima = Minima.joined([Minima.of(scan, i, curves[i]) for i, scan in enumerate(kept)])
            allowed = minima
            if near is not None:
                inside = _within(self.scans[0], near[part], window)
                allowed = Minima.of(self.scans[0], 0, torch.where(inside, curves[0], torch.inf))
            answers.append(_answer(allowed, minima, ivar[part], self._threshold))
        return Redshifts(*(torch.cat([getattr(each, field.name) for each in answers]) for field in fields(Redshifts)))


class LogBins:
    """Puts spectra of an instrument on a logarithmic grid, where theirs is another; for scans only."""

    def __init__(self, instrument: Instrument) -> None:
        wave = instrument.wave_obs.double()
        self._place: Tensor | None = None
        grid = spacing(instrument.wave_obs)
        if grid is None:
            raise ValueError(f"the bins of {instrument.name} are uniform neither in wavelength nor in its logarithm")
        log = wave.log10()
        self.start = log[0].item()
        self.count = len(wave)
        if grid.logarithmic and abs(grid.step / math.log(10) / LOG_STEP - 1) < 1e-3:
            if instrument.loglam0 is not None:
                self.start = instrument.loglam0
            return
        self.count = int(round((log[-1].item() - self.start) / LOG_STEP)) + 1
        edges = torch.cat(
            [wave[:1] * 1.5 - wave[1:2] / 2, (wave[1:] + wave[:-1]) / 2, wave[-1:] * 1.5 - wave[-2:-1] / 2]
        )
        self._place = _shares((edges.log10() - self.start) / LOG_STEP + 0.5, self.count)

    def to(self, device: torch.device) -> None:
        """Move what is kept to a device."""
        if self._place is not None:
            self._place = self._place.to(device)

    def __call__(self, flux: Tensor, ivar: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sum of ivar flux^2, shape (N,), and ivar and ivar times flux on the logarithmic grid, float64."""
        w = ivar.double()
        y = torch.where(w > 0, flux.double(), 0)
        total = (w * y * y).sum(dim=1)
        if self._place is None:
            return total, w, w * y
        return total, torch.mm(self._place, w.T).T.contiguous(), torch.mm(self._place, (w * y).T).T.contiguous()


def _shares(edges: Tensor, count: int) -> Tensor:
    """Which share of each pixel lies in each bin: sparse, shape (count, L), for edges (L + 1,) in units of bins.

    Shares beyond the last bin go to it, so that no weight is lost.
    """
    left, right = edges[:-1], edges[1:]
    reach = int((right - left).max().ceil()) + 1
    rows, columns, values = [], [], []
    for k in range(reach):
        bins = left.floor() + k
        share = (torch.minimum(right, bins + 1) - torch.maximum(left, bins)).clamp(min=0) / (right - left)
        rows.append(bins.long().clamp(0, count - 1))
        columns.append(torch.arange(len(left)))
        values.append(share)
    indices = torch.stack([torch.cat(rows), torch.cat(columns)])
    return torch.sparse_coo_tensor(indices, torch.cat(values), (count, len(left)), check_invariants=True).coalesce()


@dataclass(frozen=True)
class Minima:
    """Local minima of chi2 along redshift, padded: shape (N, m), infinite chi2 where there is none.

    log_stretch: log10(1 + z), refined by a parabola. chi2: at the grid point. error: of log_stretch. bad: where no
    parabola fits. edge: at the end of what is scanned.
    """

    chi2: Tensor
    log_stretch: Tensor
    error: Tensor
    bad: Tensor
    edge: Tensor
    kind: Tensor

    @classmethod
    def of(cls, scan: Scan, kind: int, chi2: Tensor) -> Minima:
        """Find those of one kind's curve, shape (N, M); infinite where no redshift is to be found."""
        grid = scan.log_stretch
        before = torch.nn.functional.pad(chi2, (1, 0), value=torch.inf)[:, :-1]
        after = torch.nn.functional.pad(chi2, (0, 1), value=torch.inf)[:, 1:]
        lowest = (chi2 < before) & (chi2 <= after) & chi2.isfinite()
        edge = lowest & ~(before.isfinite() & after.isfinite())
        slope, bend = before - after, before - 2 * chi2 + after
        bad = lowest & ~edge & ~(bend > 0)
        inner = lowest & ~edge & ~bad
        shift = torch.where(inner, 0.5 * slope / torch.where(inner, bend, 1), 0)
        error = torch.where(inner, (2 / torch.where(inner, bend, 1)).sqrt(), torch.nan) * scan.step
        depth = torch.where(inner, slope * shift / 4, 0)  # of the parabola's lowest point below the grid's
        found = torch.where(lowest, chi2 - depth, torch.inf)
        return cls(found, grid + shift * scan.step, error, bad, edge, torch.full_like(chi2, kind, dtype=torch.int8))

    @classmethod
    def joined(cls, parts: Sequence[Minima]) -> Minima:
        """Put the minima of several kinds together."""
        names = ("chi2", "log_stretch", "error", "bad", "edge", "kind")
        return cls(*(torch.cat([getattr(part, name) for part in parts], dim=1) for name in names))


def _within(scan: Scan, near: Tensor, window: float) -> Tensor:
    """Say which redshifts of a grid lie within `window` km/s of given ones: shape (N,) -> (N, M), bool."""
    away = scan.log_stretch[None] - torch.log10(1 + near.double())[:, None]
    return away.abs() <= math.log10(1 + window / C)


def _answer(allowed: Minima, minima: Minima, ivar: Tensor, threshold: float) -> Redshifts:
    """Choose the best of those that are allowed, and of all minima the one that comes next to it."""
    compared, compared_all = (each.chi2 + torch.where(each.kind > 0, OTHERS, 0.0) for each in (allowed, minima))
    best = compared.argmin(dim=1, keepdim=True)

    def at(values: Tensor, place: Tensor) -> Tensor:
        return values.gather(1, place).squeeze(1)

    log_stretch, chi2 = at(allowed.log_stretch, best), at(allowed.chi2, best)
    apart = (minima.log_stretch - log_stretch[:, None]).abs() > math.log10(1 + APART / C)
    others = torch.where(apart, compared_all, torch.inf)
    second = others.argmin(dim=1, keepdim=True)
    delta = at(others, second) - at(compared, best)
    n_pixels = torch.count_nonzero(ivar, dim=1)
    some = torch.isfinite(chi2) & (n_pixels > 0)
    z = 10**log_stretch - 1
    scatter = (chi2 / (n_pixels - 1).clamp(min=1)).clamp(min=1).sqrt()
    error = (1 + z) * torch.hypot(
        SCALE * math.log(10) * at(allowed.error, best) * scatter, torch.full_like(z, FLOOR / C)
    )
    has_second = some & torch.isfinite(delta)
    bits = {
        ZWarning.NODATA: ~some,
        ZWarning.LITTLE_COVERAGE: some & (n_pixels < LEAST_PIXELS),
        ZWarning.SMALL_DELTA_CHI2: has_second & (delta < threshold),
        ZWarning.Z_FITLIMIT: some & at(allowed.edge, best),
        ZWarning.BAD_MINFIT: some & at(allowed.bad, best),
    }
    warning = torch.zeros(len(z), dtype=torch.int32, device=z.device)
    for bit, where in bits.items():
        warning |= torch.where(where, int(bit), 0).int()
    nan = torch.full_like(z, torch.nan)
    return Redshifts(
        z=torch.where(some, z, nan),
        error=torch.where(some, error, nan),
        chi2=torch.where(some, chi2, nan),
        delta_chi2=torch.where(has_second, delta, nan),
        second=torch.where(has_second, 10 ** at(minima.log_stretch, second) - 1, nan),
        warning=warning,
        kind=torch.where(some, at(allowed.kind, best), -1),
    )
