"""Figures of latents that are fitted, and of what scans and fits cost."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from eigen_scan import EigenScan
from galaxies import Galaxies
from redshift_figures import (
    DELTA_CHI2,
    SN_RANGE,
    Figure,
    Judge,
    Sizes,
    by_eigenspectra,
    find,
    interval,
    mocks_of_any_sn,
    real,
    share,
    shares,
    spread,
)
from redshift_mocks import Array, Noises, Observed, decoded
from scipy.stats import chi2

from spender_core.latent_fit import LatentFit, fit_latents
from spender_core.redshift import C

CREDIBLE = 0.68


@torch.no_grad()
def _fits(judge: Judge, spectra: Observed, z: Array, *, free_z: bool) -> tuple[LatentFit, Array]:
    """Refined latents, and chi2 that the encoder's have."""
    redshift = torch.from_numpy(z)
    parts = [slice(i, i + 16) for i in range(0, len(spectra), 16)]
    fits, before = [], []
    for part in parts:
        flux, ivar = spectra.flux[part], spectra.ivar[part]
        s = judge.model.encode(flux)
        data = judge.model, flux, ivar, s, redshift[part], judge.basis.prior
        fits.append(fit_latents(*data, free_z=free_z))
        before.append(fit_latents(*data, steps=0).chi2)
    fit = LatentFit(*(torch.cat([getattr(f, name) for f in fits]) for name in LatentFit.__dataclass_fields__))
    return fit, torch.cat(before).numpy()


def latents(judges: list[Judge], galaxies: Galaxies, noises: Noises, sizes: Sizes) -> list[Figure]:
    """Latents that are fitted."""
    figures = []
    for name, free_z in (("z of the catalog", False), ("z free", True)):
        before, after = [], []
        for judge in judges:
            spectra = real(galaxies, judge.rows)
            z = find(judge.estimator, spectra).z if free_z else spectra.z
            fit, encoded = _fits(judge, spectra, z, free_z=free_z)
            n = (spectra.ivar > 0).sum(1).numpy()
            before.append(encoded / n)
            after.append(fit.chi2.numpy() / n)
        old, new = np.concatenate(before), np.concatenate(after)
        lower = 1 - np.median(new) / np.median(old)
        worse = int((new > old * (1 + 1e-6)).sum())
        who = np.arange(len(old))
        low, high = interval(lambda i, o=old, n=new: 1 - np.median(n[i]) / np.median(o[i]), who)  # type: ignore[misc]
        figures += [
            Figure(
                f"refined latents, {name}: chi2 above the encoder's",
                "0",
                f"{worse} of {len(old)}",
                met=worse == 0,
            ),
            Figure(
                f"refined latents, {name}: median reduced chi2 lower by",
                ">= 8 %",
                f"{100 * lower:.1f} % ({100 * low:.1f} to {100 * high:.1f}), to {np.median(new):.2f}",
                met=lower >= 0.08,
            ),
        ]
    held: list[bool] = []
    for k, (judge, count) in enumerate(zip(judges, shares(judges, sizes.ellipsoids, held=False), strict=True)):
        sn = np.exp(np.random.default_rng(k).uniform(*np.log(SN_RANGE), count))
        spectra, truth = decoded(judge.model, judge.basis, sn, noises, 9000 + k)
        fit, _ = _fits(judge, spectra, spectra.z, free_z=False)
        off = fit.latents.double() - truth
        distance = torch.einsum("ni,nij,nj->n", off, torch.linalg.inv(fit.covariance), off)
        held += (distance <= chi2.ppf(CREDIBLE, off.shape[1])).tolist()
    figures.append(
        Figure(
            "68 % ellipsoids that hold the truth (mocks by the decoder)",
            "60-76 %",
            share(sum(held), len(held)),
            met=0.60 <= np.mean(held) <= 0.76,
        )
    )
    return figures


def refined(judges: list[Judge], noises: Noises, sizes: Sizes) -> list[Figure]:
    """Whether redshifts of the fit are nearer to the truth than the scan's: mocks of the held galaxies."""
    scans, fits, who = [], [], []
    for judge, spectra in mocks_of_any_sn(judges, noises, sizes.refined, 80_000):
        a = find(judge.estimator, spectra)
        ok = (a.delta_chi2 >= DELTA_CHI2) & ~a.is_wrong
        fit, _ = _fits(judge, spectra, a.z, free_z=True)
        scans.append(a.velocity[ok])
        fits.append((C * (fit.z.numpy() - spectra.z) / (1 + spectra.z))[ok])
        who.append(a.who[ok])
    one, other, names = (np.concatenate(parts) for parts in (scans, fits, who))
    return [
        Figure("NMAD of z on accepted mocks, km/s: the scan's", "-", spread(one, names)),
        Figure("the same: fitted with the latents", "-", spread(other, names)),
    ]


@torch.no_grad()
def cost(judge: Judge, spectra: Observed, peer: EigenScan, sizes: Sizes) -> list[Figure]:
    """Compare times with the encoder's: one thread, the fastest of rounds in turns, as others use the machine, too."""
    some = spectra.part(np.arange(len(spectra)) < sizes.timed)
    flux, ivar = some.flux, some.ivar
    z = judge.estimator(flux, ivar).z
    s = judge.model.encode(flux)
    data = judge.model, flux, ivar, s, z, judge.basis.prior
    parts: dict[str, Callable[[], object]] = {
        "encode": lambda: judge.model.encode(flux),
        "scan": lambda: judge.estimator(flux, ivar),
        "fit, z fixed": lambda: fit_latents(*data),
        "fit, z free": lambda: fit_latents(*data, free_z=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(sizes.rounds):
        for name, part in parts.items():
            began = time.perf_counter()
            part()
            seconds[name].append((time.perf_counter() - began) / len(flux))
    t = {name: min(values) for name, values in seconds.items()}
    slow = by_eigenspectra(peer, some, min(4, len(flux)))[1]
    one = t["encode"]
    figures = [
        Figure(
            "scan over encode, CPU, one thread",
            "<= 1",
            f"{t['scan'] / one:.2f} ({1e3 * t['scan']:.1f} ms over {1e3 * one:.1f} ms)",
            f"{1e3 * slow:.0f} ms",
            t["scan"] <= one,
        )
    ]
    for name in ("fit, z fixed", "fit, z free"):
        total = (t["scan"] + one + t[name]) / one
        figures.append(Figure(f"scan, encode and {name} over encode", "<= 5", f"{total:.2f}", met=total <= 5))
    return figures
