"""Figures of redshifts and refined latents: each with what is required of it, and an interval of 68 %."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from eigen_scan import EigenScan
from galaxies import Galaxies
from numpy.typing import NDArray
from redshift_mocks import Array, EigenGalaxies, Noises, Observed, noised
from scipy.stats import beta

from spender_core.basis import Basis
from spender_core.model import SpectrumModel
from spender_core.redshift import DELTA_CHI2, C, RedshiftEstimator

CLOSE, WRONG = 150.0, 1000.0  # km/s
SN = (1.0, 2.0, 3.0, 5.0)
SN_RANGE = (1.0, 20.0)
NEAR_TWO = (1.75, 2.25)
REALIZED = (2.0, 3.0, 5.0)  # S/N that galaxies are taken to by realizations of noise
DRAWS = 400
BLOCK = 500
KINDS = ("GALAXY", "QSO", "STAR")


@dataclass(frozen=True)
class Sizes:
    """How many spectra figures are made of.

    accepted: mocks of any S/N. sky: of each kind of no object. noised: real galaxies with noise, and mocks, for each
    S/N. peer: of these, for the eigenspectra. realizations: for each galaxy. ellipsoids, refined: mocks. rounds, timed:
    of the clock, and its spectra.
    """

    accepted: int = 12_000
    sky: int = 1000
    noised: int = 1000
    peer: int = 200
    realizations: int = 20
    ellipsoids: int = 600
    refined: int = 600
    rounds: int = 7
    timed: int = 32


@dataclass(frozen=True)
class Figure:
    """One line of the table; met: None where nothing is required."""

    name: str
    wanted: str
    ours: str
    eigenspectra: str = "-"
    met: bool | None = None


@dataclass(frozen=True)
class Judge:
    """A model, and the galaxies that it is judged by, rows of the catalog; held: those on which nothing was set."""

    model: SpectrumModel
    basis: Basis
    estimator: RedshiftEstimator
    rows: NDArray[np.intp]
    held: NDArray[np.intp]
    mocks: EigenGalaxies
    held_mocks: EigenGalaxies


@dataclass(frozen=True)
class Answers:
    """What was found in N spectra, each shape (N,); velocity: km/s from the truth; pull: in units of the error."""

    velocity: Array
    pull: Array
    delta_chi2: Array
    kind: NDArray[np.int8]
    z: Array
    error: Array
    sn: Array
    who: NDArray[np.intp]
    added: Array

    @property
    def is_wrong(self) -> NDArray[np.bool_]:
        """Where another redshift was found."""
        return np.abs(self.velocity) > WRONG


def find(estimator: RedshiftEstimator, spectra: Observed) -> Answers:
    """Find redshifts, and compare them with the truth."""
    found = estimator(spectra.flux, spectra.ivar)
    z, error = found.z.numpy(), found.error.numpy()
    return Answers(
        C * (z - spectra.z) / (1 + spectra.z),
        (z - spectra.z) / error,
        found.delta_chi2.nan_to_num(nan=np.inf).numpy(),
        found.kind.numpy(),
        z,
        C * error / (1 + z),
        spectra.sn,
        spectra.who,
        spectra.added,
    )


def joined(parts: list[Answers]) -> Answers:
    """Put answers together."""
    return Answers(*(np.concatenate([getattr(p, name) for p in parts]) for name in Answers.__dataclass_fields__))


def shares(judges: list[Judge], count: int, held: bool = True) -> list[int]:
    """How many of `count` spectra each judge gets: as it has galaxies."""
    sizes = np.array([len(j.held if held else j.rows) for j in judges])
    return [int(n) for n in np.ceil(count * sizes / sizes.sum()) * (sizes > 0)]


def nmad(x: Array) -> float:
    """1.48 times the median distance from the median."""
    return float(1.4826 * np.median(np.abs(x - np.median(x)))) if len(x) else np.nan


def interval(figure: Callable[[NDArray[np.intp]], float], who: NDArray[np.intp]) -> tuple[float, float]:
    """68 % interval of a figure of places, by drawing the galaxies, `who`, again with all their spectra."""
    rng = np.random.default_rng(0)
    groups = [np.flatnonzero(who == each) for each in np.unique(who)]
    values = [
        figure(np.concatenate([groups[k] for k in rng.integers(len(groups), size=len(groups))])) for _ in range(DRAWS)
    ]
    low, high = np.nanpercentile(values, [16, 84])
    return float(low), float(high)


def share(count: int, n: int) -> str:
    """Write a share in percent with its binomial interval (Clopper and Pearson)."""
    if not n:
        return "none"
    low = beta.ppf(0.16, count, n - count + 1) if count else 0.0
    high = beta.ppf(0.84, count + 1, n - count) if count < n else 1.0
    return f"{100 * count / n:.4g} % ({100 * low:.4g} to {100 * high:.4g}), {count} of {n}"


def _within(a: Answers) -> tuple[float, str]:
    ok = ~a.is_wrong
    low, high = interval(lambda i: ok[i].mean(), a.who)
    return float(ok.mean()), f"{100 * ok.mean():.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def spread(x: Array, who: NDArray[np.intp], digits: str = ".1f") -> str:
    """Write the NMAD with its interval."""
    low, high = interval(lambda i: nmad(x[i]), who)
    return f"{nmad(x):{digits}} ({low:{digits}} to {high:{digits}})"


def real(galaxies: Galaxies, rows: NDArray[np.intp]) -> Observed:
    """Take real spectra as they are."""
    flux, ivar = (torch.from_numpy(a[rows]) for a in (galaxies.flux, galaxies.ivar))
    return Observed(flux, ivar, galaxies.z[rows].astype(np.float64), galaxies.sn[rows], rows, np.zeros(len(rows)))


def by_eigenspectra(scan: EigenScan, spectra: Observed, count: int) -> tuple[Array, float]:
    """Velocities that the eigenspectra are off by, of `count` of the spectra, and seconds for each."""
    chosen = np.random.default_rng(0).permutation(len(spectra))[:count]
    began = time.perf_counter()
    z = np.array([scan(spectra.flux[i].double().numpy(), spectra.ivar[i].double().numpy()) for i in chosen])
    seconds = (time.perf_counter() - began) / len(chosen)
    return C * (z - spectra.z[chosen]) / (1 + spectra.z[chosen]), seconds


def blind(judges: list[Judge], galaxies: Galaxies, peer: EigenScan) -> list[Figure]:
    """Real galaxies as they are."""
    spectra = [real(galaxies, j.rows) for j in judges]
    a = joined([find(j.estimator, s) for j, s in zip(judges, spectra, strict=True)])
    theirs = np.concatenate([by_eigenspectra(peer, s, len(s))[0] for s in spectra])
    n = len(a.z)
    figures = []
    for limit in (CLOSE, WRONG):
        beyond = np.abs(a.velocity) > limit
        names = ", ".join(
            f"{galaxies.names[i]} {v:+.0f}" for i, v in zip(a.who[beyond], a.velocity[beyond], strict=True)
        )
        ours = share(int(beyond.sum()), n) + (f": {names}" if names else "")
        others = int((np.abs(theirs) > limit).sum())
        figures.append(
            Figure(f"clean galaxies beyond {limit:.0f} km/s", "<= 1", ours, f"{others} of {n}", beyond.sum() <= 1)
        )
    figures.append(
        Figure(
            "the same, NMAD, km/s", "<= 15", spread(a.velocity, a.who), f"{nmad(theirs):.1f}", nmad(a.velocity) <= 15
        )
    )
    middle = interval(lambda i: float(np.median(a.velocity[i])), a.who)
    figures.append(
        Figure(
            "the same, median offset, km/s",
            "-",
            f"{np.median(a.velocity):.1f} ({middle[0]:.1f} to {middle[1]:.1f})",
            f"{np.median(theirs):.1f}",
        )
    )
    return figures


def faint(judges: list[Judge], galaxies: Galaxies, noises: Noises, peer: EigenScan, sizes: Sizes) -> list[Figure]:
    """Noised real galaxies and mocks of a given S/N."""
    figures = []
    wanted = {1.0: 0.64, 2.0: 0.97}
    for sn in SN:
        for name in ("real galaxies with noise", "mocks"):
            parts, theirs = [], []
            for k, (judge, count) in enumerate(zip(judges, shares(judges, sizes.noised, held=False), strict=True)):
                seed = 1000 + 100 * int(sn) + k
                if name == "mocks":
                    spectra = judge.mocks.observe(np.full(count, sn), noises, seed)
                else:
                    spectra = noised(galaxies, judge.rows, sn, count, noises, seed)
                parts.append(find(judge.estimator, spectra))
                if sn in wanted:
                    theirs.append(by_eigenspectra(peer, spectra, -(-sizes.peer * count // sizes.noised))[0])
            value, text = _within(joined(parts))
            others = f"{100 * (np.abs(np.concatenate(theirs)) < WRONG).mean():.1f} %" if theirs else "-"
            least = wanted.get(sn)
            figures.append(
                Figure(
                    f"{name}, S/N {sn:.0f}: within 1000 km/s",
                    f">= {100 * least:.0f} %" if least else "-",
                    text,
                    others,
                    value >= least if least else None,
                )
            )
    return figures


def mocks_of_any_sn(judges: list[Judge], noises: Noises, count: int, seed: int) -> Iterator[tuple[Judge, Observed]]:
    """Make mocks of the held galaxies, S/N uniform in its logarithm, in blocks, each with its judge."""
    for k, (judge, n) in enumerate(zip(judges, shares(judges, count), strict=True)):
        sn = np.exp(np.random.default_rng(seed + k).uniform(*np.log(SN_RANGE), n))
        for i in range(0, n, BLOCK):
            yield judge, judge.held_mocks.observe(sn[i : i + BLOCK], noises, seed + 1000 * (k + 1) + i)


def no_objects(noises: Noises, n: int, seed: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Draw sky spectra, and noise with the standard deviations of real ones."""
    rng = torch.Generator().manual_seed(seed)
    return {"sky": noises.draw(n, rng, residuals=1.0)[:2], "pure noise": noises.draw(n, rng, residuals=0.0)[:2]}


def accepted(judges: list[Judge], noises: Noises, sizes: Sizes, seed: int = 50_000) -> tuple[list[Figure], Answers]:
    """Judge what the threshold lets through; gives the answers, too."""
    mocks = mocks_of_any_sn(judges, noises, sizes.accepted, seed)
    a = joined([find(judge.estimator, spectra) for judge, spectra in mocks])
    ok = a.delta_chi2 >= DELTA_CHI2
    wrong = int((ok & a.is_wrong).sum())
    figures = [
        Figure(
            f"mocks accepted (delta chi2 >= {DELTA_CHI2:g}) at a wrong redshift",
            "<= 0.1 %",
            share(wrong, int(ok.sum())),
            met=wrong <= 0.001 * ok.sum(),
        )
    ]
    for name, low, high, least in (("S/N >= 3", 3.0, np.inf, 0.95), ("S/N 2", *NEAR_TWO, 0.80)):
        part = (a.sn >= low) & (a.sn < high)
        right = ok & ~a.is_wrong
        ours = share(int(right[part].sum()), int(part.sum()))
        figures.append(
            Figure(
                f"mocks of {name} accepted, and right", f">= {100 * least:.0f} %", ours, met=right[part].mean() >= least
            )
        )
    for name, spectra in no_objects(noises, sizes.sky, seed).items():
        found = judges[0].estimator(*spectra)
        n = int((found.delta_chi2 >= DELTA_CHI2).sum())
        figures.append(Figure(f"{name} accepted", "<= 1 %", share(n, sizes.sky), met=n <= 0.01 * sizes.sky))
    return figures, a


def errors(judges: list[Judge], galaxies: Galaxies, noises: Noises, a: Answers, sizes: Sizes) -> list[Figure]:
    """How large errors are; a: the answers of `accepted`."""
    ok = (a.delta_chi2 >= DELTA_CHI2) & ~a.is_wrong & np.isfinite(a.pull)
    figures = []
    for name, low, high in (("all", 1.0, 20.0), ("S/N 1-2", 1.0, 2.0), ("S/N 2-5", 2.0, 5.0), ("S/N 5-20", 5.0, 20.0)):
        part = ok & (a.sn >= low) & (a.sn < high)
        value = nmad(a.pull[part])
        is_all = name == "all"
        figures.append(
            Figure(
                f"mocks, {name}: NMAD of (z - truth) / error",
                "0.8-1.2" if is_all else "-",
                spread(a.pull[part], a.who[part], ".2f") if part.any() else "none",
                met=0.8 <= value <= 1.2 if is_all else None,
            )
        )
    ratios, names = [], []
    for k, judge in enumerate(judges):
        for sn in REALIZED:
            spectra = noised(galaxies, judge.rows, sn, 0, noises, 7000 + 100 * int(sn) + k, sizes.realizations)
            found = find(judge.estimator, spectra)
            for who in np.unique(found.who):
                mine = (found.who == who) & np.isfinite(found.error)
                # the noise that the galaxy itself has is the same in all
                expected = np.median(found.error[mine] * np.sqrt(found.added[mine]))
                ratios.append(nmad(found.velocity[mine]) / expected)
                names.append(who)
    r = np.array(ratios)
    low, high = interval(lambda i: float(np.median(r[i])), np.array(names))
    middle = float(np.median(r))
    figures.append(
        Figure(
            f"galaxies, {sizes.realizations} realizations of noise at S/N 2, 3 and 5: scatter over error, median",
            "0.8-1.25",
            f"{middle:.2f} ({low:.2f} to {high:.2f}), {len(set(names))} galaxies",
            met=0.8 <= middle <= 1.25,
        )
    )
    return figures


def classes(
    judges: list[Judge], galaxies: Galaxies, kinds: NDArray[np.str_], flags: NDArray[np.int32]
) -> tuple[list[Figure], str]:
    """Kinds of the judges' galaxies, and of quasars and stars by the first judge; and the flagged ones, in words."""
    others = np.flatnonzero(kinds != "GALAXY")
    a = joined(
        [
            *(find(j.estimator, real(galaxies, j.rows)) for j in judges),
            find(judges[0].estimator, real(galaxies, others)),
        ]
    )
    found, truth = np.array(KINDS)[a.kind], kinds[a.who]
    is_clean = flags[a.who] == 0
    right = int((found == truth)[is_clean].sum())
    n = int(is_clean.sum())
    figures = [Figure("class of galaxies, quasars and stars right", ">= 90 %", share(right, n), met=right >= 0.9 * n)]
    for kind in KINDS:
        of_kind = is_clean & (truth == kind)
        counts = ", ".join(f"{int((found[of_kind] == other).sum())} {other}" for other in KINDS)
        figures.append(Figure(f"found among {int(of_kind.sum())} {kind}", "-", counts))
    lines = [
        f"{galaxies.names[a.who[i]]} (ZWARNING {flags[a.who[i]]}): {truth[i]}, found {found[i]} at z {a.z[i]:.4f},"
        f" delta chi2 {a.delta_chi2[i]:.0f}"
        for i in np.flatnonzero(~is_clean)
    ]
    return figures, "; ".join(lines)
