r"""Judge `sdss-demo` on real galaxies that it has not seen, next to the pipeline's four eigenspectra.

    python benchmarks/reconstruction.py --data ../shared/data --work /tmp/demo-training \
        [--card spender_core/data/sdss-demo.md]

Every galaxy is reconstructed by the model of the fold that was trained without it (benchmarks/train_demo.py), and
fitted with the eigenspectra by weighted least squares in the observed frame, which sees the very pixels it is judged
on. Prints one row per galaxy, medians, and last the median ratio of both reduced chi2.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import train_demo
from galaxies import Array, Galaxies, fit_components, read_components, read_galaxies
from numpy.typing import NDArray
from train_demo import N_FOLD, folds, load, new_model

from spender_core.instrument import SDSS
from spender_core.weights import checkpoint_sha256, load_model

PHASES = {
    "1-warm-up": ("encoder alone, mocks", "WARM_UP", "STEPS", "log(1 + extra chi2)"),
    "2-joint": ("encoder and decoder, mocks", "JOINT", "STEPS", "log(chi2 + 0.1)"),
    "3-real-all": ("half real galaxies, half mocks", "REAL", "REAL_STEPS", "log(chi2 + 0.1)"),
}


@dataclass(frozen=True)
class Judged:
    """Per galaxy, shape (N,): reduced chi2 of ours and of the components, median |residual| in units of the norm."""

    galaxies: Galaxies
    rows: NDArray[np.intp]
    fold: NDArray[np.intp]
    chi2: Array
    chi2_components: Array
    residual: Array
    residual_components: Array

    @property
    def ratio(self) -> Array:
        """Ours over the components', reduced chi2."""
        return self.chi2 / self.chi2_components


def reconstruct(galaxies: Galaxies, rows: NDArray[np.intp], fold: NDArray[np.intp], work: Path) -> Array:
    """Reconstruct each galaxy by the model that has not seen it, shape (N, L); NaN outside of the model."""
    model = new_model().eval()
    flux, z = torch.from_numpy(galaxies.flux[rows]), torch.from_numpy(galaxies.z[rows])
    out = np.zeros(flux.shape, np.float32)
    for k in range(N_FOLD):
        load(model, work / f"3-real-{k}.pt", train_demo.REAL)
        unseen = np.flatnonzero(fold == k)
        with torch.inference_mode():
            _, _, reconstruction, valid = model.reconstruct(flux[unseen], z=z[unseen])
        out[unseen] = torch.where(valid, reconstruction, torch.nan).numpy()
    return out


def judge(data: Path, work: Path) -> Judged:
    """Compare both reconstructions on the pixels that both cover."""
    galaxies, components = read_galaxies(data), read_components(data)
    rows = np.flatnonzero(galaxies.clean)
    fold = folds(galaxies.objects[rows])
    ours = reconstruct(galaxies, rows, fold, work)
    _, fitted = fit_components(galaxies, components)
    fitted = fitted[rows]
    flux = galaxies.flux[rows]
    ivar = np.where(np.isfinite(ours) & (fitted != 0), galaxies.ivar[rows], 0)

    def measures(model: Array) -> tuple[Array, Array]:
        difference = np.where(ivar > 0, flux - np.nan_to_num(model), 0)
        chi2 = (ivar * difference**2).sum(1) / (ivar > 0).sum(1)
        residual = np.array([np.median(np.abs(d[w > 0])) for d, w in zip(difference, ivar, strict=True)])
        return chi2.astype(np.float32), residual.astype(np.float32)

    (chi2, residual), (chi2_components, residual_components) = measures(ours), measures(fitted)
    return Judged(galaxies, rows, fold, chi2, chi2_components, residual, residual_components)


def table(judged: Judged) -> str:
    """Write a Markdown table with one row per galaxy."""
    lines = [
        "| plate-mjd-fiber | class | z | S/N | fold | chi2 ours | chi2 components | ratio | residual ours |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    g = judged.galaxies
    for n, i in enumerate(judged.rows):
        star = "" if g.legacy[i] else " (BOSS)"
        lines.append(
            f"| {g.names[i]}{star} | {g.classes[i]} | {g.z[i]:.4f} | {g.sn[i]:.1f} | {judged.fold[n]}"
            f" | {judged.chi2[n]:.2f} | {judged.chi2_components[n]:.2f} | {judged.ratio[n]:.2f}"
            f" | {100 * judged.residual[n]:.1f} % |"
        )
    return "\n".join(lines)


def summary(judged: Judged) -> str:
    """Write a Markdown table of medians."""
    sn, legacy = judged.galaxies.sn[judged.rows], judged.galaxies.legacy[judged.rows]
    lines = [
        "| unseen galaxies | number | chi2 ours | chi2 components | ratio | residual ours | residual components |",
        "|---|---|---|---|---|---|---|",
    ]
    parts = {"all": sn > -1, "SDSS-I/II": legacy, "S/N < 10": sn < 10, "S/N >= 10": sn >= 10}
    for name, part in parts.items():
        figures = (judged.chi2, judged.chi2_components, judged.ratio)
        medians = " | ".join(f"{np.median(figure[part]):.2f}" for figure in figures)
        residuals = " | ".join(
            f"{100 * np.median(figure[part]):.1f} %" for figure in (judged.residual, judged.residual_components)
        )
        lines.append(f"| {name} | {part.sum()} | {medians} | {residuals} |")
    return "\n".join(lines)


def phases(checkpoint: Path) -> str:
    """Write a Markdown table of the training that a shipped checkpoint tells of, and the file's hash."""
    _, losses = load_model(checkpoint, SDSS())
    lines = [
        "| phase | spectra | peak rate | loss | first epoch | last epoch |",
        "|---|---|---|---|---|---|",
    ]
    for phase, (name, settings_name, steps_name, loss) in PHASES.items():
        settings, steps = getattr(train_demo, settings_name), getattr(train_demo, steps_name)
        first, last = (losses[phase]["train"][i]["sdss"] for i in (0, -1))
        spectra = f"{settings.epochs} x {steps * settings.batch_size}"
        lines.append(f"| {name} | {spectra} | {settings.lr:g} | {loss} | {first:.2f} | {last:.2f} |")
    size = checkpoint.stat().st_size / 1e6
    return "\n".join([*lines, "", f"The file: {size:.1f} MB, SHA-256 `{checkpoint_sha256(checkpoint)}`."])


def write_section(card: Path, name: str, text: str) -> None:
    """Replace what stands between the two marks of a section of the model card."""
    begin, end = f"<!-- {name}: written by benchmarks/reconstruction.py -->", f"<!-- end of {name} -->"
    head, _, rest = card.read_text(encoding="utf-8").partition(begin)
    card.write_text(f"{head}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def main() -> None:
    """Judge, print, and put the tables into the model card if one is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with sas/dr17 and templates")
    parser.add_argument("--work", type=Path, required=True, help="folder that train_demo.py wrote")
    parser.add_argument("--card", type=Path, help="model card to write the tables into")
    arguments = parser.parse_args()
    judged = judge(arguments.data, arguments.work)
    text = f"{summary(judged)}\n\n{table(judged)}"
    print(text)
    if arguments.card:
        write_section(arguments.card, "training", phases(arguments.card.with_suffix(".pt")))
        write_section(arguments.card, "galaxies", text)
    print(f"ratio: {np.median(judged.ratio):.3f}")


if __name__ == "__main__":
    main()
