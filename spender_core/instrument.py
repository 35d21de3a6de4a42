"""Instruments: the wavelength grid a spectrum is observed on, its line spread function and its sky-line mask."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from importlib.metadata import entry_points

import torch
from torch import Tensor, nn

LOG_STEP = 1e-4  # SDSS, BOSS: bins of 0.0001 in log10(wavelength / Angstrom), spec datamodel

SKYLINE_MIN_INTENSITY = 2.0
SKYLINE_HALF_WIDTH = 5.0  # Angstrom, for a line at the intensity threshold

Calibration = Callable[[Tensor, Tensor], Tensor]


class LSF(nn.Conv1d):
    """Line spread function: a flux-preserving convolution over wavelength bins.

    kernel: shape (K,), the response to a line in one bin; its sum is divided out. Stored flipped as `weight`, shape
    (1, 1, K), the form of published checkpoints (paper I, section 4.2). symmetric, nonnegative: what `project` makes of
    it while it is learned.
    """

    def __init__(
        self, kernel: Tensor, requires_grad: bool = True, *, symmetric: bool = False, nonnegative: bool = False
    ) -> None:
        super().__init__(1, 1, len(kernel), bias=False, padding="same")
        self.weight = nn.Parameter(kernel.flip(0).reshape(1, 1, -1).clone(), requires_grad=requires_grad)
        self.symmetric = symmetric
        self.nonnegative = nonnegative

    @classmethod
    def delta(cls, taps: int, *, symmetric: bool = False, nonnegative: bool = False) -> LSF:
        """Make one of so many bins that changes nothing yet, to be learned. ValueError for an even number of them."""
        if taps < 1 or taps % 2 == 0:
            raise ValueError(f"taps is {taps}, expected an odd number, such as 5: a line stays where it is")
        kernel = torch.zeros(taps)
        kernel[taps // 2] = 1
        return cls(kernel, symmetric=symmetric, nonnegative=nonnegative)

    @torch.no_grad()
    def project(self) -> None:
        """Make the kernel, in place, the nearest one that is symmetric and not negative, as asked for, with sum one.

        Called after each step of training; a kernel that is not learned stays as it is.
        """
        if not self.weight.requires_grad:
            return
        kernel = self.weight.detach()
        if self.symmetric:
            kernel = (kernel + kernel.flip(-1)) / 2
        if self.nonnegative:
            kernel = kernel.clamp_min(0)
        self.weight.copy_(kernel / kernel.sum())

    def forward(self, spectrum: Tensor) -> Tensor:
        """Convolve spectra, shape (N, 1, L) -> (N, 1, L)."""
        return super().forward(spectrum) / self.weight.sum()


def sky_lines() -> tuple[Tensor, Tensor]:
    """Read the bright sky lines: wavelengths in Angstrom and intensities, each shape (323,), float64."""
    text = resources.files("spender_core").joinpath("data/sky_lines.csv").read_text(encoding="utf-8")
    rows = [line.split(",") for line in text.splitlines() if line and line[0].isdigit()]
    table = torch.tensor([[float(value) for value in row] for row in rows], dtype=torch.float64)
    return 10 * table[:, 0], table[:, 1]


def get_skyline_mask(wave_obs: Tensor) -> Tensor:
    """Mark the bins that bright sky lines contaminate.

    wave_obs: shape (L,), Angstrom. Returns bool, shape (L,), True where masked. A line of intensity I covers
    +-5 (1 + log10(I / 2)) Angstrom; lines fainter than 2 are ignored.
    """
    wavelength, intensity = sky_lines()
    half_width = SKYLINE_HALF_WIDTH * (1 + torch.log10(intensity / SKYLINE_MIN_INTENSITY))
    distance = (wave_obs.double()[:, None] - wavelength).abs()
    return (distance < half_width).any(dim=1)


class Instrument(nn.Module):
    """A spectrograph as the model sees it.

    name: how plans and checkpoints refer to it. wave_obs: shape (L,), Angstrom, vacuum, heliocentric.
    lsf: convolution of the model to the instrument's resolution, an `LSF` or a kernel of shape (K,), or None.
    calibration: callable (wave_obs, spectrum) -> spectrum, applied last, or None.
    loglam0, log_step: origin and step of a grid that is uniform in log10(wavelength); None on any other.
    """

    wave_obs: Tensor
    skyline_mask: Tensor

    def __init__(
        self,
        name: str,
        wave_obs: Tensor,
        lsf: LSF | Tensor | None = None,
        calibration: Calibration | None = None,
        loglam0: float | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.loglam0 = loglam0
        self.log_step = LOG_STEP if loglam0 is not None else None
        self.lsf = LSF(lsf) if isinstance(lsf, Tensor) else lsf
        self.calibration = calibration
        self.register_buffer("wave_obs", wave_obs)  # checkpoints carry it, so that another grid is noticed
        self.register_buffer("skyline_mask", get_skyline_mask(wave_obs), persistent=False)

    def observe(self, spectrum: Tensor) -> Tensor:
        """Apply line spread function and calibration to spectra on the instrument's grid, shape (N, L)."""
        if self.lsf is not None:
            spectrum = self.lsf(spectrum.unsqueeze(1)).squeeze(1)
        if self.calibration is not None:
            spectrum = self.calibration(self.wave_obs, spectrum)
        return spectrum


def _log_grid(start: float, stop: float, count: int) -> Tensor:
    """Wavelengths 10**(start, start + 1e-4, ...) in float32, as published models were trained with.

    The length of a float range depends on rounding, so the count is pinned rather than trusted.
    """
    grid: Tensor = 10 ** torch.arange(start, stop, LOG_STEP)
    if len(grid) != count:
        raise AssertionError(f"wavelength grid has {len(grid)} bins, expected {count}")
    return grid


class SDSS(Instrument):
    """SDSS-I/II spectrograph: 3921 bins, 3784.4-9332.5 Angstrom."""

    def __init__(self, lsf: LSF | Tensor | None = None, calibration: Calibration | None = None) -> None:
        super().__init__("sdss", _log_grid(3.578, 3.97, 3921), lsf, calibration, loglam0=3.578)


class BOSS(Instrument):
    """BOSS and eBOSS spectrograph: 4686 bins, 3540.0-10409.2 Angstrom."""

    def __init__(self, lsf: LSF | Tensor | None = None, calibration: Calibration | None = None) -> None:
        super().__init__("boss", _log_grid(3.549, 4.0175, 4686), lsf, calibration, loglam0=3.549)


class DESI(Instrument):
    """DESI spectrograph: 7781 bins of 0.8 Angstrom, 3600-9824 Angstrom, float64."""

    def __init__(self, lsf: LSF | Tensor | None = None, calibration: Calibration | None = None) -> None:
        super().__init__("desi", torch.linspace(3600.0, 9824.0, 7781, dtype=torch.float64), lsf, calibration)


INSTRUMENTS: dict[str, Callable[[], Instrument]] = {"sdss": SDSS, "boss": BOSS, "desi": DESI}
"""The instruments of this package, by name."""

GROUP = "spender_core.instruments"
"""Entry points by which other packages add instruments: name = "package.module:Class", built without arguments."""


def get_instrument(name: str) -> Instrument:
    """Make the instrument of that name, one of ours or of an installed package; ValueError names the choices."""
    if name in INSTRUMENTS:
        return INSTRUMENTS[name]()
    others = entry_points(group=GROUP)
    if name not in others.names:
        known = ", ".join([*INSTRUMENTS, *sorted(others.names)])
        raise ValueError(f"instrument {name!r} is not known; choose from {known}")
    made: Instrument = others[name].load()()
    return made
