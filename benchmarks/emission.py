"""Emission lines of mock galaxies: which there are, how strong, and how wide.

Fluxes are relative to a galaxy's H alpha, by kind of source: star-forming galaxies along a sequence of metallicity,
Seyferts and LINERs, as regions of the diagram of Baldwin, Phillips & Terlevich (1981) with the border of Kauffmann et
al. (2003); Balmer decrements of case B, ratios fixed by atomic physics where there are such.
"""

from __future__ import annotations

import torch
from torch import Tensor

C = 299792.458  # km/s
INSTRUMENT = 68.0  # km/s, dispersion of the SDSS spectrograph, which the templates have as well

# vacuum wavelengths in Angstrom
LINES = {
    "MgII2796": 2796.35, "MgII2804": 2803.53, "NeV3427": 3426.85,
    "OII3727": 3727.09, "OII3729": 3729.88, "H9": 3836.49, "NeIII3870": 3869.86, "H8": 3890.16, "NeIII3969": 3968.59,
    "Hepsilon": 3971.20, "Hdelta": 4102.89, "Hgamma": 4341.69, "OIII4364": 4364.44, "HeI4473": 4472.73,
    "HeII4687": 4687.02, "Hbeta": 4862.69, "OIII4960": 4960.30, "OIII5008": 5008.24, "NI5200": 5201.0,
    "HeI5877": 5877.25, "OI6302": 6302.05, "OI6366": 6365.54, "NII6550": 6549.86, "Halpha": 6564.61,
    "NII6585": 6585.27, "HeI6680": 6679.99, "SII6718": 6718.29, "SII6733": 6732.68, "HeI7067": 7067.14,
    "ArIII7138": 7137.77, "OII7322": 7321.9, "OII7332": 7332.2, "ArIII7753": 7753.24, "SIII9071": 9071.1,
}  # fmt: skip
NAMES = list(LINES)
WAVES = torch.tensor(list(LINES.values()), dtype=torch.float64)
BALMER = {"Halpha": 1.0, "Hbeta": 1 / 2.86, "Hgamma": 0.468 / 2.86, "Hdelta": 0.259 / 2.86, "Hepsilon": 0.159 / 2.86,
          "H8": 0.105 / 2.86, "H9": 0.073 / 2.86}  # fmt: skip
BROAD = [*BALMER, "MgII2796", "MgII2804"]


def _normal(n: int, mean: float | Tensor, sigma: float, rng: torch.Generator) -> Tensor:
    return mean + sigma * torch.randn(n, generator=rng, device=rng.device)


def _uniform(n: int, low: float, high: float, rng: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(n, generator=rng, device=rng.device)


def draw_ratios(n: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw fluxes in units of H alpha, H alpha's equivalent width and the kinds of n sources.

    Returns ratios, shape (n, lines); width, shape (n,), Angstrom; kind, shape (n,): 0 star-forming, 1 Seyfert,
    2 LINER or retired, 3 none.
    """
    kind = torch.multinomial(torch.tensor([0.5, 0.13, 0.17, 0.2], device=rng.device), n, True, generator=rng)
    is_active, is_liner = kind == 1, kind == 2
    nii = _uniform(n, -1.7, -0.3, rng)  # log [N II] / H alpha
    nii = torch.where(is_active, _uniform(n, -0.5, 0.35, rng), torch.where(is_liner, _uniform(n, -0.25, 0.4, rng), nii))
    forming = (0.61 / (nii.clamp(max=-0.02) - 0.05) + 1.3).clamp(-1.2, 0.85)
    oiii = _normal(n, forming - 0.12, 0.15, rng)  # log [O III] / H beta
    oiii = torch.where(is_active, _uniform(n, 0.3, 1.15, rng), torch.where(is_liner, _uniform(n, -0.3, 0.6, rng), oiii))
    oii = _normal(n, torch.where(kind == 0, 0.35 - 0.25 * (nii + 0.9) ** 2, torch.full_like(nii, 0.5)), 0.22, rng)
    sii = _normal(n, torch.where(kind == 0, -0.5 - 0.1 * (nii + 0.7).abs(), torch.full_like(nii, -0.15)), 0.15, rng)
    oi = _normal(n, torch.where(kind == 0, -1.6, torch.where(is_liner, -0.75, -0.95)), 0.25, rng)
    hb = 1 / 2.86
    zero = torch.zeros(n, device=rng.device)
    doublet = _uniform(n, 0.42, 0.58, rng)
    hot = ((oiii - 0.4) / 0.4).clamp(0, 1)  # hard radiation, little metal
    sulfur = _uniform(n, 0.52, 0.62, rng)
    f = {name: zero for name in NAMES}
    f |= {name: torch.full_like(zero, ratio) for name, ratio in BALMER.items()}
    f["OIII5008"] = 10**oiii * hb
    f["OIII4960"] = f["OIII5008"] / 2.98
    f["NII6585"] = 10**nii
    f["NII6550"] = 10**nii / 3.0
    total = 10**oii * 10 ** (0.3 * (oiii > 0) * oiii) * hb
    f["OII3727"], f["OII3729"] = total * (1 - doublet), total * doublet
    f["SII6718"], f["SII6733"] = 10**sii * sulfur, 10**sii * (1 - sulfur)
    f["OI6302"], f["OI6366"] = 10**oi, 10**oi / 3.0
    f["NeIII3870"] = f["OIII5008"] * 10 ** _normal(n, -1.1, 0.15, rng)
    f["NeIII3969"] = f["NeIII3870"] * 0.31
    f["OIII4364"] = f["OIII5008"] * 0.013 * hot * 10 ** _normal(n, 0.0, 0.2, rng)
    helium = 10 ** _normal(n, 0.0, 0.12, rng) * hb
    for name, ratio in (("HeI5877", 0.12), ("HeI4473", 0.04), ("HeI6680", 0.033), ("HeI7067", 0.025)):
        f[name] = ratio * helium
    f["HeII4687"] = hb * torch.where(is_active, 0.15, 0.012 * hot) * 10 ** _normal(n, 0.0, 0.3, rng)
    f["NeV3427"] = f["OIII5008"] * torch.where(is_active, 0.05, 0.0) * 10 ** _normal(n, 0.0, 0.3, rng)
    f["NI5200"] = f["OI6302"] * 0.15
    f["ArIII7138"] = f["OIII5008"] * 10 ** _normal(n, -1.55, 0.15, rng)
    f["ArIII7753"] = f["ArIII7138"] * 0.24
    f["OII7322"], f["OII7332"] = total * 0.014, total * 0.011
    f["SIII9071"] = 10 ** _normal(n, -0.85, 0.2, rng) * torch.where(is_liner, 0.3, 1.0)
    ratios = torch.stack([f[name] for name in NAMES], dim=1)
    ratios = ratios * torch.exp(0.1 * torch.randn(ratios.shape, generator=rng, device=rng.device))
    width = 10 ** torch.where(
        kind == 0,
        _normal(n, 1.35, 0.5, rng),
        torch.where(is_active, _normal(n, 1.2, 0.45, rng), _normal(n, 0.25, 0.4, rng)),
    )
    width = torch.where(kind == 3, _uniform(n, 0.0, 0.4, rng), width.clamp(max=1200.0))
    return ratios, width, kind


def render(flux: Tensor, sigma: Tensor, log_wave: Tensor, lines: Tensor) -> Tensor:
    """Add up Gaussian lines, integrated over bins.

    flux: shape (N, K), in units of flux density times Angstrom. sigma: shape (N,) or (N, K), km/s, as observed.
    log_wave: shape (R,), log10 of the bins' wavelengths, in uniform steps. lines: shape (K,), Angstrom.
    Returns shape (N, R).
    """
    step = (log_wave[1] - log_wave[0]).double()
    n_bin, velocity = len(log_wave), C * 2.302585093 * step  # km/s per bin
    widths = sigma.double() if sigma.ndim == 2 else sigma.double()[:, None].expand(-1, flux.shape[1])
    widths = widths / velocity  # bins
    place = (lines.double().log10() - log_wave[0].double()) / step
    half = max(int(4 * widths.max().item()) + 2, 3)
    offset = torch.arange(-half, half + 1, device=flux.device)
    center = place.round().long()
    edge = (center[:, None] + offset - place[:, None])[None]  # (1, K, 2 half + 1)
    scale = (widths * 2**0.5)[..., None]
    shape = 0.5 * (torch.erf((edge + 0.5) / scale) - torch.erf((edge - 0.5) / scale))
    per_bin = lines.double() * 2.302585093 * step  # Angstrom per bin at the line
    values = (shape * (flux.double() / per_bin)[..., None]).float()
    index = center[:, None] + offset
    inside = (index >= 0) & (index < n_bin)
    out = torch.zeros(len(flux), n_bin, device=flux.device)
    out.index_add_(1, index[inside], values[:, inside])
    return out
