"""Judge densities of latents: their time on a survey, their fit, and what they find that a distance does not.

    python benchmarks/density.py --data DIR [--write]

Survey: 2 million latents on a curved sheet (`survey_store.py`), trained and scored as the commands do, on as many cores
as torch takes. Modes: latents of several clumps and a ring, outliers between them. Real spectra: both fitted to one
sample of latents of `sdss-galaxies`, of mocks and of the 48 galaxies that trained it; outliers are quasars, stars and
all spectra that are not clean, inliers the 16 clean galaxies that no training saw, and all 64. Mocks are decoded from
mixtures of the 48 galaxies' latents, with real spectra's noise, and encoded again. A spectrum without finite latents
counts as the farthest of all. The last line is the limit of time over the time taken, of what is closer to its limit.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from galaxies import Galaxies, read_galaxies
from mocks import Noise
from numpy.typing import NDArray
from redshift_mocks import read_catalog
from science_training import reduced_chi2, write_section
from survey_store import drawn
from train_galaxies import kept_aside

from pipeline.compute.stages.density import score
from pipeline.planning.partition import Shard
from spender_core import SDSS, load_model
from spender_core.dataset import validation
from spender_core.density import Density
from spender_core.density_fit import FlowSample, FlowSettings, fit_density
from spender_core.model import SpectrumModel
from spender_core.training_file import LocalFile
from spender_core.weights import read_extras

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
MODEL = "sdss-galaxies"
TRAINED, SCORED = 300.0, 120.0  # seconds, limits for 2 million spectra
COMPONENTS, ITERATIONS, MIXED = 10, 60, 50_000  # of the mixture of Gaussians, and rows that it is fitted to
SN = (2.0, 40.0)  # of mocks, the median per bin
Z_MAX = 0.4
SEED = 5

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sizes:
    """How much is computed. draws: of the bootstrap. settings: of densities."""

    spectra: int = 2_000_000
    mocks: int = 6000
    modes: int = 20_000
    draws: int = 2000
    settings: FlowSettings = FlowSettings()


def fitted(latents: NDArray[np.float32], held_out: NDArray[np.bool_], settings: FlowSettings) -> Density:
    """Train a density of latents, shape (N, S)."""
    sample = FlowSample(latents, held_out, np.full(len(latents), np.nan, np.float32), "0" * 64)
    with TemporaryDirectory() as folder:
        return fit_density(sample, settings, LocalFile(Path(folder) / "flow.pt"))


def log_prob(density: Density, latents: NDArray[np.float32]) -> Array:
    """Score latents as a run does, shape (N,)."""
    return score(density, latents, None, None, ["log_prob"], torch.device("cpu"))["log_prob"].astype(np.float64)


class Gaussians:
    """A mixture of Gaussians with full covariances, fitted by expectation maximization; of one: a Gaussian."""

    def __init__(self, x: NDArray[np.floating], components: int) -> None:
        random = np.random.default_rng(SEED)
        x = x[random.permutation(len(x))[:MIXED]].astype(np.float64)
        whole = np.cov(x.T) + 1e-9 * np.eye(x.shape[1])
        self.means = x[:components] if components > 1 else x.mean(axis=0)[None]
        self.covariances = np.repeat(whole[None], components, axis=0)
        self.weights = np.full(components, 1 / components)
        for _ in range(ITERATIONS if components > 1 else 0):
            logs = self._logs(x)
            share = np.exp(logs - np.logaddexp.reduce(logs, axis=1, keepdims=True))
            total = share.sum(axis=0) + 1e-9
            self.weights, self.means = total / total.sum(), share.T @ x / total[:, None]
            for k in range(components):
                y = x - self.means[k]
                self.covariances[k] = (share[:, k, None] * y).T @ y / total[k] + 1e-6 * whole

    def _logs(self, x: Array) -> Array:
        found = []
        for mean, covariance, weight in zip(self.means, self.covariances, self.weights, strict=True):
            lower = np.linalg.cholesky(covariance)
            y = np.linalg.solve(lower, (x - mean).T)
            log_volume = np.log(np.diag(lower)).sum() + 0.5 * len(mean) * np.log(2 * np.pi)
            found.append(np.log(weight) - 0.5 * (y**2).sum(axis=0) - log_volume)
        return np.array(found).T

    def log_prob(self, x: NDArray[np.floating]) -> Array:
        """Return log p, shape (N,), NaN where x is not finite."""
        pieces = [
            np.logaddexp.reduce(self._logs(x[i : i + 2**17].astype(np.float64)), axis=1)
            for i in range(0, len(x), 2**17)
        ]
        return np.asarray(np.concatenate(pieces))


def auc(inliers: Array, outliers: Array) -> float:
    """Return the share of pairs in which the outlier has the higher score; half of those that are equal."""
    both = np.concatenate([inliers, outliers])
    _, place, count = np.unique(both, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    n = len(outliers)
    return float((rank[len(inliers) :].sum() - n * (n + 1) / 2) / (n * len(inliers)))


def survey(sizes: Sizes) -> tuple[list[str], float]:
    """Train and score as many latents as a survey has; return rows of the table, and the ratio."""
    latents = drawn(Shard(0, 0, sizes.spectra), 10)["latents"]
    latents = latents[np.isfinite(latents).all(axis=1)]
    held_out = validation(np.arange(len(latents)))
    start, busy = time.perf_counter(), time.process_time()
    density = fitted(latents, held_out, sizes.settings)
    trained, of_training = time.perf_counter() - start, time.process_time() - busy
    start, busy = time.perf_counter(), time.process_time()
    found = log_prob(density, latents)
    scored, of_scoring = time.perf_counter() - start, time.process_time() - busy
    scale = sizes.spectra / 2_000_000
    epochs = len(density.facts["history"]["valid"])
    rows = [
        f"| trained on {len(latents):,} latents of 10, {epochs} epochs | {trained:.0f} s ({of_training:.0f} s of CPU)"
        f" | {scale * TRAINED:.0f} s |",
        f"| scored {len(latents):,} | {scored:.0f} s ({of_scoring:.0f} s of CPU) | {scale * SCORED:.0f} s |",
        f"| mean log p of what is held out: density | {found[held_out].mean():.3f} | |",
    ]
    for components in (1, COMPONENTS):
        peer = Gaussians(latents[~held_out], components).log_prob(latents[held_out]).mean()
        name = "a Gaussian" if components == 1 else f"a mixture of {components} Gaussians"
        rows.append(f"| {name} | {peer:.3f} | below the density's |")
    return rows, min(scale * TRAINED / trained, scale * SCORED / scored)


def modes(sizes: Sizes, n_latent: int = 6) -> list[str]:
    """Compare AUCs on mocks of several modes, whose outliers lie between these."""
    random = np.random.default_rng(SEED)

    def clumps(n: int, scatter: float) -> NDArray[np.float32]:
        angle = random.uniform(0, 2 * np.pi, n)
        centers = np.zeros((n, n_latent))
        centers[:, 0], centers[:, 1] = 3 * np.cos(angle), 3 * np.sin(angle)
        kind = random.integers(0, 4, n)
        for k, place in enumerate((-7.0, 7.0)):
            centers[kind == k] = place * np.eye(n_latent)[2]
        return np.asarray(centers + scatter * random.normal(size=(n, n_latent)), np.float32)

    sample, inliers = clumps(sizes.modes, 0.4), clumps(2000, 0.4)
    outliers = (0.4 * random.normal(size=(2000, n_latent)) + random.uniform(-1, 1, (2000, 1))).astype(np.float32)
    density = fitted(sample, validation(np.arange(len(sample))), sizes.settings)
    gaussian = Gaussians(sample, 1)
    own = auc(-log_prob(density, inliers), -log_prob(density, outliers))
    peer = auc(-gaussian.log_prob(inliers), -gaussian.log_prob(outliers))
    return [f"| mocks of several modes, outliers between them | {own:.3f} | {peer:.3f} |"]


@torch.inference_mode()
def encoded(model: SpectrumModel, flux: torch.Tensor) -> NDArray[np.float32]:
    """Encode spectra in pieces, shape (N, S)."""
    return torch.cat([model.encode(piece) for piece in torch.split(flux, 256)]).numpy()


@torch.inference_mode()
def mock_latents(model: SpectrumModel, noise: Noise, n: int) -> NDArray[np.float32]:
    """Encode mocks that the model's decoder makes of mixtures of its training galaxies, shape (n, S)."""
    random, rng = np.random.default_rng(SEED), torch.Generator().manual_seed(SEED)
    own = read_extras(MODEL)["latents"].float().numpy()
    parts = []
    for start in range(0, n, 256):
        m = min(256, n - start)
        who = np.array([random.choice(len(own), 3, replace=False) for _ in range(m)])
        share = random.dirichlet(np.ones(3), m)
        mixed = (share[:, :, None] * own[who]).sum(axis=1)
        mixed = mixed + 0.1 * own.std(axis=0) * random.normal(size=mixed.shape)
        z = torch.from_numpy(random.uniform(0, Z_MAX, m).astype(np.float32))
        restframe = model.decode(torch.from_numpy(mixed.astype(np.float32)))
        flux, valid = model.decoder.observe(restframe, model.encoder.instrument, z)
        sn = torch.from_numpy(np.exp(random.uniform(*np.log(SN), m)).astype(np.float32))
        j = torch.randint(len(noise.sigma), (m,), generator=rng)
        used = noise.used[j] & noise.sigma[j].isfinite() & valid
        sigma = torch.where(used, noise.sigma[j], 0) * (flux.median(dim=1).values / sn)[:, None]
        noisy = torch.where(used, flux + sigma * torch.randn(flux.shape, generator=rng), 0)
        parts.append(encoded(model, noisy.float()))
    return np.concatenate(parts)


@dataclass(frozen=True)
class Scores:
    """How far real spectra are from a sample, by each measure: shape (N,), infinite without finite latents."""

    by: dict[str, Array]
    kinds: dict[str, NDArray[np.bool_]]
    inliers: dict[str, NDArray[np.bool_]]
    without: list[str]


def real(data: Path, sizes: Sizes) -> Scores:
    """Score the real spectra by a density, Mahalanobis' distance and reduced chi2."""
    galaxies: Galaxies = read_galaxies(data)
    model, _ = load_model(MODEL, SDSS())
    rows = np.flatnonzero(galaxies.clean)
    aside = np.zeros(len(galaxies.z), np.bool_)
    aside[rows[kept_aside(galaxies, rows)]] = True
    seen = galaxies.clean & ~aside
    latents = encoded(model, torch.from_numpy(galaxies.flux))
    noise = Noise.of(galaxies, np.flatnonzero(seen))
    sample = np.concatenate([mock_latents(model, noise, sizes.mocks), latents[seen]])
    sample = sample[np.isfinite(sample).all(axis=1)]
    density = fitted(sample, validation(np.arange(len(sample))), sizes.settings)
    finite = np.isfinite(latents).all(axis=1)
    gaussian = Gaussians(sample, 1)
    far = np.full(len(latents), np.inf)
    by = {"density": far.copy(), "Mahalanobis": far.copy(), "reduced chi2": far.copy()}
    by["density"][finite] = -log_prob(density, latents[finite])
    by["Mahalanobis"][finite] = -gaussian.log_prob(latents[finite])
    chi2 = reduced_chi2(model, galaxies, np.arange(len(latents)))
    by["reduced chi2"] = np.where(finite & np.isfinite(chi2), chi2, np.inf).astype(np.float64)
    kind = np.array([str(each).strip() for each in read_catalog(data)["CLASS"]])
    bad = ~galaxies.clean
    kinds = {"quasars": bad & (kind == "QSO"), "stars": bad & (kind == "STAR"), "all that are not clean": bad}
    inliers = {"unseen": aside, "all clean, 48 of them seen": galaxies.clean}
    return Scores(by, kinds, inliers, [galaxies.names[i] for i in np.flatnonzero(~finite)])


def compared(scores: Scores, draws: int) -> tuple[list[str], float]:
    """Return rows of AUCs with paired intervals, and the least difference of density and Mahalanobis."""
    rows, least = [], np.inf
    for name, among in scores.inliers.items():
        for kind, out in scores.kinds.items():
            values = {by: auc(each[among], each[out]) for by, each in scores.by.items()}
            gain = values["density"] - values["Mahalanobis"]
            least = min(least, gain)
            random = np.random.default_rng(SEED)
            a, b = np.flatnonzero(among), np.flatnonzero(out)
            drawn_gains = []
            for _ in range(draws):
                i, o = random.choice(a, len(a)), random.choice(b, len(b))
                one, other = (auc(scores.by[by][i], scores.by[by][o]) for by in ("density", "Mahalanobis"))
                drawn_gains.append(one - other)
            low, high = np.quantile(drawn_gains, (0.025, 0.975))
            shown = " | ".join(f"{value:.3f}" for value in values.values())
            who = f"{out.sum()} {kind} against {among.sum()} {name}"
            rows.append(f"| {who} | {shown} | {gain:+.3f} ({low:+.3f} to {high:+.3f}) |")
    return rows, float(least)


def report(sizes: Sizes, data: Path | None) -> tuple[str, float]:
    """Return the tables as Markdown, and the ratio of time. Each table is printed as soon as it is made."""
    of_survey, ratio = survey(sizes)
    cores = f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f} when it ended"
    lines = [f"| survey ({cores}) | | limit |", "|---|---|---|", *of_survey, ""]
    print("\n".join(lines), flush=True)
    of_modes = ["| AUC | density | Mahalanobis |", "|---|---|---|", *modes(sizes)]
    print("\n".join(of_modes), flush=True)
    lines += of_modes
    if data is not None:
        scores = real(data, sizes)
        rows, least = compared(scores, sizes.draws)
        of_real = ["", "| AUC of real spectra | density | Mahalanobis | reduced chi2 | density - Mahalanobis |"]
        of_real += ["|" + "---|" * 5, *rows, ""]
        of_real.append(f"Least difference: {least:+.3f}; allowed: -0.02. Intervals: 95 %, paired bootstrap.")
        without = ", ".join(scores.without) or "none"
        of_real.append(f"Without finite latents, and so the farthest: {without}.")
        print("\n".join(of_real), flush=True)
        lines += of_real
    return "\n".join(lines), ratio


def main() -> None:
    """Judge and print; put the tables into RESULTS.md if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with sas/dr17; without it nothing real is judged")
    parser.add_argument("--spectra", type=int, default=Sizes.spectra)
    parser.add_argument("--mocks", type=int, default=Sizes.mocks)
    parser.add_argument("--tiny", action="store_true", help="short training, to try the script")
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md")
    args = parser.parse_args()
    sizes = Sizes(args.spectra, args.mocks)
    if args.tiny:
        sizes = Sizes(args.spectra, args.mocks, 2000, 20, FlowSettings(epochs=3, steps=20, transforms=2, hidden=(16,)))
    text, ratio = report(sizes, args.data)
    if args.write:
        write_section(RESULTS, "density", text, "density.py")
    print(f"ratio: {ratio:.2f}")


if __name__ == "__main__":
    main()
