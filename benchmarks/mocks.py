"""Mock spectra of galaxies, drawn afresh for every step, with the restframe that they have without noise.

`Prior` draws from broad priors and knows no real galaxy; `Fitted` draws mixtures of what fits of real galaxies gave.
Both are observed alike: redshifted, with the noise of real files, and normalized as the pipeline does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import emission
import numpy as np
import torch
from galaxies import NORM_WINDOW, Galaxies, rest_grid
from stars import SEAM, Stars
from torch import Tensor

from spender_core.dataset import Batch, Split
from spender_core.instrument import SDSS
from spender_core.resample import resample, spacing, within

Z_MAX = 0.5
SN = (1.5, 60.0)  # per bin, at the median of a noise vector
COVERED_NORM = 20  # bins of the normalization window that must be there


@dataclass(frozen=True)
class Noise:
    """Noise of real spectra in units of each one's own median: shapes (M, L).

    sigma: standard deviations, NaN where the pipeline has none. residual: flux less the archive's model. used: bins
    with weight. covered: bins that the spectrum reaches.
    """

    sigma: Tensor
    residual: Tensor
    used: Tensor
    covered: Tensor

    @classmethod
    def of(cls, galaxies: Galaxies, rows: np.ndarray) -> Noise:
        """Take the noise of these rows of the catalog, but of those whose pipeline noise is no use."""
        ivar, sigma, residual, covered = (
            torch.from_numpy(a[rows]) for a in (galaxies.ivar, galaxies.sigma, galaxies.residual, galaxies.covered)
        )
        level = torch.where(ivar > 0, sigma.abs(), torch.nan).nanmedian(dim=1).values
        ok = level.isfinite() & (level > 0) & ((ivar > 0).float().mean(1) > 0.5)
        level = level[ok, None]
        part = (residual[ok] / level).clamp(-8, 8).nan_to_num()
        sigma = sigma[ok].abs() / level
        return cls(torch.where(sigma < 50, sigma, torch.nan), part, ivar[ok] > 0, covered[ok])

    def to(self, device: torch.device) -> Noise:
        """Move to a device."""
        return Noise(*(getattr(self, f.name).to(device) for f in fields(self)))


class Mocks(ABC):
    """Batches of mocks; the generator of a batch is made of seed, epoch and its number alone."""

    def __init__(self, stars: Stars, noise: Noise, steps: int, seed: int, device: torch.device) -> None:
        self.device, self._steps, self._seed = device, steps, seed
        self._noise = noise.to(device)
        self._templates = torch.from_numpy(np.concatenate([stars.stars, stars.populations])).to(device)
        self.n_stars = len(stars.stars)
        self._follow, self._ultraviolet, self._joint, self._level = (
            torch.from_numpy(a).to(device) for a in (stars.follow, stars.ultraviolet, stars.joint, stars.level)
        )
        self._rest = torch.from_numpy(rest_grid()).to(device)
        self._log_rest = self._rest.double().log10()
        self._obs = SDSS().wave_obs.to(device)
        self._spacing = spacing(self._rest)
        self._lines = emission.WAVES.to(device)
        self.identity = f"{type(self).__name__} mocks, seed {seed}, {steps} steps, {len(noise.sigma)} noise vectors"

    def steps(self, split: Split, batch_size: int) -> int:
        """Batches per epoch, whatever their size; few to validate."""
        return self._steps if split == "train" else max(self._steps // 50, 1)

    def batches(self, split: Split, epoch: int, batch_size: int, begin: int = 0) -> Iterator[Batch]:
        """Yield freshly drawn batches; the validation ones are the same in every epoch."""
        for i in range(begin, self.steps(split, batch_size)):
            key = (self._seed, epoch, i, 0) if split == "train" else (self._seed, 0, i, 1)
            yield self.draw(batch_size, self.generator(key))

    def generator(self, key: tuple[int, ...]) -> torch.Generator:
        """Make the random numbers of a batch."""
        state = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
        return torch.Generator(self.device).manual_seed(state)

    def draw(self, n: int, rng: torch.Generator) -> Batch:
        """Draw n mock spectra with their noise-free restframe spectra."""
        parts: list[Batch] = []
        while sum(len(p.spec) for p in parts) < n:
            parts.append(self.observe(self.restframes(n + n // 8 + 1, rng), rng))
        spec, w, z, truth = (torch.cat([getattr(p, k) for p in parts])[:n] for k in ("spec", "w", "z", "truth"))
        return Batch(spec, w, z, truth=truth)

    @abstractmethod
    def restframes(self, n: int, rng: torch.Generator) -> Tensor:
        """Draw noise-free restframe spectra, shape (n, R), of any norm."""

    def starlight(self, mixture: Tensor, sigma: Tensor, rng: torch.Generator) -> Tensor:
        """Continue mixtures of templates into the ultraviolet and broaden them: shape (n, R), sigma (n,) in km/s."""
        n = len(mixture)
        below = (mixture @ self._follow) @ self._ultraviolet
        level = (mixture @ self._follow) @ self._level
        joint = mixture @ self._joint
        ratio = torch.where(level > 0.2 * joint, joint / level, 1.0).clamp(0.5, 2.0)
        tilt = 0.8 * torch.randn((n, 1), generator=rng, device=self.device)
        below = torch.maximum(below * ratio[:, None], 0.03 * joint[:, None]) * (self._rest / SEAM) ** tilt
        return self._broaden(torch.where(self._rest < SEAM, below, mixture), sigma)

    def _broaden(self, spectra: Tensor, sigma: Tensor) -> Tensor:
        step = (self._log_rest[1] - self._log_rest[0]).item() * 2.302585093 * emission.C
        n_bin, pad = spectra.shape[1], 64
        padded = torch.nn.functional.pad(spectra[:, None], (pad, 8192 - n_bin - pad), mode="replicate")[:, 0]
        frequency = torch.fft.rfftfreq(8192, device=self.device)
        kernel = torch.exp(-2 * (torch.pi * frequency * (sigma / step)[:, None]) ** 2)
        return torch.fft.irfft(torch.fft.rfft(padded) * kernel, n=8192)[:, pad : pad + n_bin]

    def attenuation(self, ebv: Tensor) -> Tensor:
        """Calzetti et al. (2000), as a factor of 1 at 5500 Angstrom: E(B-V), shape (n,) -> (n, R)."""
        x = self._rest / 1e4
        blue = 2.659 * (-2.156 + 1.509 / x - 0.198 / x**2 + 0.011 / x**3) + 4.05
        red = 2.659 * (-1.857 + 1.040 / x) + 4.05
        k = torch.where(x < 0.63, blue, red)
        k = k - k[torch.argmin((x - 0.55).abs())]
        return 10 ** (-0.4 * ebv[:, None] * k)

    def sodium(self, n: int, rng: torch.Generator) -> Tensor:
        """Draw interstellar Na I D absorption, a factor, shape (n, R)."""
        width = (torch.rand(n, generator=rng, device=self.device) < 0.4) * torch.rand(
            n, generator=rng, device=self.device
        )
        lines = torch.tensor([5891.58, 5897.56], dtype=torch.float64, device=self.device)
        sigma = 60 + 150 * torch.rand(n, generator=rng, device=self.device)
        return 1 - emission.render(torch.stack([width * 1.2, width], 1), sigma, self._log_rest, lines).clamp(max=0.7)

    def redshifts(self, n: int, rng: torch.Generator) -> Tensor:
        """Half uniform in 0-0.5, half lower, as surveys have them."""
        u = torch.rand(n, generator=rng, device=self.device)
        low = Z_MAX * u**2.5
        return torch.where(torch.rand(n, generator=rng, device=self.device) < 0.5, Z_MAX * u, low)

    def observe(self, rest: Tensor, rng: torch.Generator) -> Batch:
        """Observe and normalize restframe spectra; fewer than given, where the norm is lost in noise."""
        n = len(rest)
        window = (self._rest > NORM_WINDOW[0]) & (self._rest < NORM_WINDOW[1])
        rest = rest / rest[:, window].median(dim=1, keepdim=True).values
        z = self.redshifts(n, rng)
        clean = resample(rest, self._rest, self._obs, z, self._spacing)
        clean = torch.where(within(self._rest, self._obs, z), clean, 0)
        j = torch.randint(len(self._noise.sigma), (n,), generator=rng, device=self.device)
        u = torch.rand((n, 1), generator=rng, device=self.device)
        scale = 1 / (SN[0] * (SN[1] / SN[0]) ** u)
        sign = torch.randint(2, (n, 1), generator=rng, device=self.device) * 2.0 - 1
        sigma = self._noise.sigma[j]
        gauss = sigma * torch.randn(clean.shape, generator=rng, device=self.device)
        own = (torch.rand((n, 1), generator=rng, device=self.device) < 0.3) | gauss.isnan()
        noise = torch.where(own, self._noise.residual[j] * sign, gauss) * scale
        spec = (clean + noise) * self._noise.covered[j]
        used = self._noise.used[j] & ~sigma.isnan()
        w = torch.where(used, 1 / (sigma * scale).square(), 0)
        place = self._obs / (1 + z[:, None])
        inside = used & (place > NORM_WINDOW[0]) & (place < NORM_WINDOW[1])
        norm = torch.where(inside, spec, torch.nan).nanmedian(dim=1).values
        ok = (norm > 0.3) & (norm < 3) & (inside.sum(1) >= COVERED_NORM)
        norm = norm[ok, None]
        return Batch(spec[ok] / norm, w[ok] * norm**2, z[ok], truth=rest[ok] / norm)


class Prior(Mocks):
    """Mixtures of stars and populations, dust, dispersion and lines, all by broad priors."""

    def restframes(self, n: int, rng: torch.Generator) -> Tensor:
        """See `Mocks`."""
        mixture = self._mixture(n, rng)
        sigma = 20 + 300 * torch.rand(n, generator=rng, device=self.device) ** 1.5
        stars = self.starlight(mixture, sigma, rng)
        ebv = -0.15 * torch.rand(n, generator=rng, device=self.device).clamp_min(1e-6).log()
        stars = stars * self.attenuation(ebv - 0.05) * self.sodium(n, rng)
        window = (self._rest > NORM_WINDOW[0]) & (self._rest < NORM_WINDOW[1])
        stars = stars / stars[:, window].median(dim=1, keepdim=True).values
        return stars + self._gas(stars, ebv, rng)

    def _mixture(self, n: int, rng: torch.Generator) -> Tensor:
        total = len(self._templates)
        weights = torch.zeros(n, total, device=self.device)
        for _ in range(5):  # up to five templates, of falling weight
            which = torch.randint(total, (n,), generator=rng, device=self.device)
            amount = torch.rand(n, generator=rng, device=self.device) ** 2
            weights.scatter_add_(1, which[:, None], amount[:, None])
        # most of them populations alone, which are what galaxies are made of
        alone = torch.rand((n, 1), generator=rng, device=self.device) < 0.6
        is_star = torch.arange(total, device=self.device) < self.n_stars
        weights = weights * torch.where(alone & is_star, 0.03, torch.where(is_star, 0.5, 1.0))
        jitter = torch.exp(0.3 * torch.randn(weights.shape, generator=rng, device=self.device))
        weights = weights * jitter
        return (weights / weights.sum(1, keepdim=True)) @ self._templates

    def _gas(self, stars: Tensor, ebv: Tensor, rng: torch.Generator) -> Tensor:
        n = len(stars)
        ratios, width, kind = emission.draw_ratios(n, rng)
        near = (self._rest > 6450) & (self._rest < 6680)
        level = stars[:, near].median(dim=1).values.clamp_min(0.05)
        flux = ratios * (width * level)[:, None]
        flux = flux * _reddening(self, ebv * 1.5)
        sigma = torch.exp(4.7 + 0.45 * torch.randn(n, generator=rng, device=self.device)).clamp(30, 450)
        lines = emission.render(flux, (sigma**2 + emission.INSTRUMENT**2).sqrt(), self._log_rest, self._lines)
        return lines + self._broad(n, level, kind, rng)

    def _broad(self, n: int, level: Tensor, kind: Tensor, rng: torch.Generator) -> Tensor:
        names = emission.BROAD
        flux = torch.tensor([emission.BALMER.get(name, 0.4) for name in names], device=self.device).expand(n, -1)
        chance = torch.where(kind == 1, 0.3, 0.03)
        has = torch.rand(n, generator=rng, device=self.device) < chance
        width = 10 ** (1.5 + 0.4 * torch.randn(n, generator=rng, device=self.device))
        sigma = 600 * (4000 / 600) ** torch.rand(n, generator=rng, device=self.device)
        waves = torch.tensor([emission.LINES[name] for name in names], dtype=torch.float64, device=self.device)
        return emission.render(flux * (has * width * level)[:, None], sigma, self._log_rest, waves)


def _reddening(mocks: Mocks, ebv: Tensor) -> Tensor:
    """Attenuation of the lines, relative to H alpha's, shape (n, lines)."""
    curve = mocks.attenuation(ebv)
    place = torch.searchsorted(mocks._rest, mocks._lines.float()).clamp(max=curve.shape[1] - 1)
    values = curve[:, place]
    return values / values[:, emission.NAMES.index("Halpha"), None]


@dataclass(frozen=True)
class Fits:
    """What fits gave for G galaxies, each normalized as the pipeline does.

    stars: shape (G, templates), weights of the templates; dispersion: shape (G,), km/s. flux: shape (G, lines),
    Angstrom, 0 where not detected; limit: shape (G, lines), what would have been detected, infinite where a line is not
    in the spectrum. width: shape (G,), km/s, as observed. broad: shape (G, broad lines); broad_width: shape (G,), km/s.
    """

    stars: Tensor
    dispersion: Tensor
    flux: Tensor
    limit: Tensor
    width: Tensor
    broad: Tensor
    broad_width: Tensor

    def of(self, rows: np.ndarray) -> Fits:
        """Take the fits of some galaxies, each line that one lacks filled in as the others have it."""
        take = torch.from_numpy(np.asarray(rows, np.int64))
        part = Fits(*(getattr(self, f.name)[take] for f in fields(self)))
        return replace(part, flux=_filled(part.flux, part.limit))


def _filled(flux: Tensor, limit: Tensor) -> Tensor:
    """Give lines that were not detected the galaxies' median ratio to the strongest lines, up to their limit."""
    filled = flux.clone()
    for reference in ("Halpha", "Hbeta", "OIII5008", "OII3727"):
        own = flux[:, emission.NAMES.index(reference)]
        for k in range(flux.shape[1]):
            both = (own > 0) & (flux[:, k] > 0)
            if both.sum() < 8:  # too few to tell how strong it is in others
                continue
            ratio = (flux[both, k] / own[both]).median()
            filled[:, k] = torch.where(
                (filled[:, k] == 0) & (own > 0), torch.minimum(ratio * own, limit[:, k]), filled[:, k]
            )
    return filled


class Fitted(Mocks):
    """Mixtures of one to three galaxies' fits, altered: templates, dust, dispersion, lines, each by a random factor."""

    def __init__(self, stars: Stars, noise: Noise, fits: Fits, steps: int, seed: int, device: torch.device) -> None:
        super().__init__(stars, noise, steps, seed, device)
        self._fits = Fits(*(getattr(fits, f.name).float().to(device) for f in fields(fits)))
        self.identity += f", {len(fits.stars)} fits"

    def restframes(self, n: int, rng: torch.Generator) -> Tensor:
        """See `Mocks`."""

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=rng, device=self.device)

        fits, g = self._fits, len(self._fits.stars)
        share = torch.rand((n, 3), generator=rng, device=self.device) ** 2
        share[:, 1:] *= (torch.rand((n, 2), generator=rng, device=self.device) < 0.5) * 0.7
        share = share / share.sum(1, keepdim=True).clamp_min(1e-3)
        who = torch.randint(g, (n, 3), generator=rng, device=self.device)
        mix = torch.zeros(n, g, device=self.device).scatter_add_(1, who, share)
        weights = (mix @ fits.stars) * torch.exp(0.3 * normal(n, fits.stars.shape[1]))
        sigma = ((mix @ fits.dispersion) * torch.exp(0.25 * normal(n))).clamp(0, 400)
        stars = self.starlight(weights @ self._templates, sigma, rng)
        ebv = 0.08 * normal(n)
        curve = self.attenuation(ebv)
        gas = (mix @ fits.flux) * 10 ** (0.25 * normal(n, 1) + 0.12 * normal(n, fits.flux.shape[1]))
        width = ((mix @ fits.width) * torch.exp(0.2 * normal(n))).clamp(emission.INSTRUMENT, 450)
        lines = emission.render(gas * _reddening(self, ebv), width, self._log_rest, self._lines)
        waves = torch.tensor([emission.LINES[k] for k in emission.BROAD], dtype=torch.float64, device=self.device)
        broad = (mix @ fits.broad) * 10 ** (0.25 * normal(n, 1))
        broad_width = ((mix @ fits.broad_width) * torch.exp(0.3 * normal(n))).clamp(500, 4000)
        return stars * curve + lines + emission.render(broad, broad_width, self._log_rest, waves)
