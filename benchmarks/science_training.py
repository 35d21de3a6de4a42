r"""Judge the embedded model `sdss-galaxies` on real galaxies that it has not seen, next to `sdss-demo`.

    python benchmarks/science_training.py --data ../shared/data [--folds DIR] [--write]

DIR is what benchmarks/train_galaxies.py wrote: each galaxy is then judged by the model of the fold that was trained
without it, and the rows per galaxy are written to benchmarks/galaxies.csv. Without it, the fold figures are those of
that table. Either way the shipped model is judged by the 16 galaxies that it never saw. `--write` puts the table into
RESULTS.md and the card. Figures have 68 % intervals, of galaxies drawn again with replacement.
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import invariance
import numpy as np
import oxygen
import pandas as pd
import torch
from galaxies import Array, Galaxies, read_galaxies
from numpy.typing import NDArray
from scipy.stats import spearmanr
from train_galaxies import N_FOLD, folds, kept_aside

from spender_core.instrument import SDSS
from spender_core.model import SpectrumModel
from spender_core.weights import load_model

HERE = Path(__file__).resolve().parent
TABLE = HERE / "galaxies.csv"
RESULTS = HERE / "RESULTS.md"
CARD = HERE.parent / "spender_core" / "data" / "sdss-galaxies.md"
DEMO_CARD = CARD.with_name("sdss-demo.md")
SHIPPED, DEMO = "sdss-galaxies", "sdss-demo"
DRAWS = 2000
BRIGHT = 10.0  # S/N
POOR = 4.0  # reduced chi2


@dataclass(frozen=True)
class Sample:
    """What is judged by: the catalog, the places of its clean galaxies, their folds, and the gallery's mocks."""

    galaxies: Galaxies
    rows: NDArray[np.intp]
    fold: NDArray[np.intp]
    mocks: tuple[torch.Tensor, torch.Tensor]

    @classmethod
    def read(cls, data: Path) -> Sample:
        """Read the real spectra and draw the mocks."""
        galaxies = read_galaxies(data)
        rows = np.flatnonzero(galaxies.clean)
        return cls(galaxies, rows, folds(galaxies.objects[rows]), invariance.gallery(data, galaxies))


@torch.inference_mode()
def reduced_chi2(model: SpectrumModel, galaxies: Galaxies, rows: NDArray[np.intp]) -> Array:
    """Chi2 over the bins with weight, divided by their number, shape (N,)."""
    flux, ivar, z = (torch.from_numpy(a[rows]) for a in (galaxies.flux, galaxies.ivar, galaxies.z))
    _, _, reconstruction, valid = model.reconstruct(flux, z=z)
    w = ivar * valid
    chi2: Array = ((w * (flux - reconstruction).square()).sum(1) / (w > 0).sum(1)).numpy()
    return chi2


def judge(model: SpectrumModel, sample: Sample, judged: NDArray[np.intp]) -> pd.DataFrame:
    """Figures of one model for some of the galaxies, places in `sample.rows`; one row for each."""
    rows = sample.rows[judged]
    moved = invariance.measure(model, sample.galaxies, sample.rows, judged, sample.mocks)
    return pd.DataFrame(
        {
            "chi2": reduced_chi2(model, sample.galaxies, rows),
            "x": moved.x,
            "ratio": moved.ratio,
            "first": moved.first,
            "oii": oxygen.predicted(model, sample.galaxies, rows),
        },
        index=[sample.galaxies.names[i] for i in rows],
    )


def about(sample: Sample) -> pd.DataFrame:
    """List what is known of each galaxy, and `sdss-demo`'s figures: its card's fold chi2, the rest as shipped."""
    g, rows = sample.galaxies, sample.rows
    table = pd.DataFrame(
        {
            "class": [g.classes[i] for i in rows],
            "z": g.z[rows],
            "sn": g.sn[rows],
            "fold": sample.fold,
            "kept_aside": kept_aside(g, rows),
            "oii_observed": oxygen.observed(g, rows),
        },
        index=[g.names[i] for i in rows],
    )
    demo = judge(load_model(DEMO, SDSS())[0], sample, np.arange(len(rows)))
    demo["chi2"] = _card_chi2().reindex(table.index)
    return table.join(demo.add_suffix("_demo"))


def _card_chi2() -> pd.Series:
    cells = [[cell.strip() for cell in line.split("|")] for line in DEMO_CARD.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in cells if len(row) > 8 and re.match(r"\d+-\d+-\d+", row[1])]
    return pd.Series({row[1].removesuffix(" (BOSS)"): float(row[6]) for row in rows})


def by_folds(sample: Sample, folder: Path) -> pd.DataFrame:
    """Judge each galaxy by the model of the fold that was trained without it."""
    parts = []
    for k in range(N_FOLD):
        model, _ = load_model(folder / f"fold-{k}.pt", SDSS())
        parts.append(judge(model, sample, np.flatnonzero(sample.fold == k)))
    return about(sample).join(pd.concat(parts))


Figure = Callable[[pd.DataFrame], float]


def _median(column: str, least: float = 0.0) -> Figure:
    return lambda t: float(t.loc[t.sn >= least, column].median())


def _emitting(t: pd.DataFrame) -> pd.DataFrame:
    return t[t.oii_observed > oxygen.WEAKEST]


def _oii(column: str) -> Figure:
    return lambda t: float(
        np.median(oxygen.errors(_emitting(t)[column].to_numpy(), _emitting(t).oii_observed.to_numpy()))
    )


def _rank(column: str) -> Figure:
    return lambda t: float(spearmanr(_emitting(t)[column], _emitting(t).oii_observed).statistic)


def _constant(t: pd.DataFrame) -> float:
    widths = np.log10(_emitting(t).oii_observed)
    return float(np.median(np.abs(widths - widths.median())))


FIGURES: dict[str, tuple[str, Figure, Figure | None]] = {
    "galaxies whose chi2 is below `sdss-demo`'s": (">= 48 of 64", lambda t: float((t.chi2 < t.chi2_demo).sum()), None),
    "median reduced chi2": ("<= 1.38", _median("chi2"), _median("chi2_demo")),
    "the same at S/N >= 10": ("<= 1.60", _median("chi2", BRIGHT), _median("chi2_demo", BRIGHT)),
    "galaxies above reduced chi2 4.0": (
        "<= 10 of 64",
        lambda t: float((t.chi2 > POOR).sum()),
        lambda t: float((t.chi2_demo > POOR).sum()),
    ),
    "moved in z: median x": ("<= 0.05", _median("x"), _median("x_demo")),
    "median of the nearest other's x over x": (">= 5", _median("ratio"), _median("ratio_demo")),
    "share that find themselves first": (
        ">= 0.6",
        lambda t: float(t["first"].mean()),
        lambda t: float(t.first_demo.mean()),
    ),
    "[O II] from the red half: median abs. log10 W ratio": ("<= 0.20", _oii("oii"), _oii("oii_demo")),
    "the same, Spearman": (">= 0.6", _rank("oii"), _rank("oii_demo")),
    "the same, of the sample's median": ("worse", _constant, None),
}
"""What is reported: what is wanted of all 64, ours, and `sdss-demo`'s."""


def interval(table: pd.DataFrame, figure: Figure) -> tuple[float, float]:
    """68 % interval of a figure, by drawing the galaxies again."""
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():  # a draw may hold no galaxy with the line, or one alone: its NaN does not count
        warnings.simplefilter("ignore")
        values = [figure(table.iloc[rng.integers(len(table), size=len(table))]) for _ in range(DRAWS)]
    low, high = np.nanpercentile(values, [16, 84])
    return float(low), float(high)


def report(table: pd.DataFrame) -> str:
    """Write the figures of a table of galaxies in Markdown."""
    lines = ["| | wanted of 64 | `sdss-galaxies` | `sdss-demo` |", "|---|---|---|---|"]
    for name, (wanted, ours, demo) in FIGURES.items():
        cells = ["-" if f is None else _cell(table, f) for f in (ours, demo)]
        lines.append(f"| {name} | {wanted} | {cells[0]} | {cells[1]} |")
    emitting = len(_emitting(table))
    return "\n".join([*lines, "", f"{len(table)} galaxies, {emitting} of them with an observed [O II] W > 3 A."])


def _cell(table: pd.DataFrame, figure: Figure) -> str:
    low, high = interval(table, figure)
    return f"{figure(table):.3g} ({low:.3g} to {high:.3g})"


def rows_in_markdown(table: pd.DataFrame) -> str:
    """Write a row per galaxy in Markdown."""
    lines = ["| plate-mjd-fiber | class | z | S/N | fold | chi2 | `sdss-demo` | x | first |", "|" + "---|" * 9]
    for name, r in table.iterrows():
        star = " (kept aside)" if r.kept_aside else ""
        lines.append(
            f"| {name}{star} | {r['class']} | {r.z:.4f} | {r.sn:.1f} | {r.fold} | {r.chi2:.2f} | {r.chi2_demo:.2f}"
            f" | {r.x:.3f} | {r['first']:.2f} |"
        )
    return "\n".join(lines)


def write_section(file: Path, name: str, text: str, script: str = "science_training.py") -> None:
    """Replace what stands between the two marks of a section. ValueError for a file without them."""
    begin, end = f"<!-- {name}: written by benchmarks/{script} -->", f"<!-- end of {name} -->"
    content = file.read_text(encoding="utf-8")
    if begin not in content or end not in content:
        raise ValueError(f"{file} has no section {name!r}: add the lines {begin} and {end}")
    head, _, rest = content.partition(begin)
    file.write_text(f"{head}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def main() -> None:
    """Judge and print; put the tables into their places if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with sas/dr17 and templates")
    parser.add_argument("--folds", type=Path, help="folder that train_galaxies.py wrote")
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md and the card")
    arguments = parser.parse_args()
    sample = Sample.read(arguments.data)
    if arguments.folds:
        table = by_folds(sample, arguments.folds)
        table.to_csv(TABLE, float_format="%.5g")
    else:
        print(f"no --folds: fold figures are those of {TABLE.name}")
    table = pd.read_csv(TABLE, index_col=0)  # as it is kept, so that both ways print the same
    kept = np.flatnonzero(table.kept_aside)
    shipped = judge(load_model(SHIPPED, SDSS())[0], sample, kept)
    unseen = table.iloc[kept].drop(columns=shipped.columns).join(shipped)
    texts = {"folds": report(table), "shipped": report(unseen), "galaxies": rows_in_markdown(table)}
    print(f"Five folds, each galaxy by the model that has not seen it\n\n{texts['folds']}\n")
    print(f"The shipped model, by the galaxies that it has never seen\n\n{texts['shipped']}\n")
    if arguments.write:
        for name in ("folds", "shipped"):
            write_section(RESULTS, name, texts[name])
        for name, text in texts.items():
            write_section(CARD, name, text)
    print(f"ratio: {table.chi2.median() / table.chi2_demo.median():.3f}")


if __name__ == "__main__":
    main()
