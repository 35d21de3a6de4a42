r"""Judge redshifts and refined latents by galaxies that the model has not seen.

    python benchmarks/science_redshifts.py --data ../shared/data [--folds DIR] [--write] [--set]

DIR is what benchmarks/train_galaxies.py wrote: each galaxy is then judged by the model of the fold that was trained
without it, and the figures are written to benchmarks/redshifts.csv. Without it, the fold figures are those of that
table. Either way the shipped model is judged by the 16 galaxies that it never saw. What is accepted, and how large
errors are, is judged on these 16 alone: the threshold and the floor are set on the other 48, with other noise (`--set`,
with `--folds`, prints what they are set by). `--write` puts the tables
into RESULTS.md, and that of the folds into the page. Intervals are of 68 %.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import latent_figures
import numpy as np
import pandas as pd
import redshift_figures
import torch
from eigen_scan import EigenScan
from galaxies import Galaxies, read_galaxies
from numpy.typing import NDArray
from redshift_figures import Figure, Judge, Sizes
from redshift_mocks import EigenGalaxies, Noises, read_catalog
from science_training import write_section
from train_galaxies import N_FOLD, folds, kept_aside

from spender_core.basis import Basis, scannable
from spender_core.instrument import SDSS
from spender_core.model import SpectrumModel
from spender_core.redshift import DELTA_CHI2, FLOOR, RedshiftEstimator
from spender_core.weights import load_model, read_extras

HERE = Path(__file__).resolve().parent
TABLE = HERE / "redshifts.csv"
RESULTS = HERE / "RESULTS.md"
PAGE = HERE.parent / "docs/redshifts.md"
SHIPPED = "sdss-galaxies"
Z_RANGE = (0.0, 0.5)
PEER = "spEigenGal-56436.fits"
SET, JUDGED = slice(0, None, 2), slice(1, None, 2)  # noise vectors that constants are set with, and judged with
THRESHOLDS = (9.0, 10.0, 12.0, 14.0, 16.0, 20.0, 25.0)
FLOORS = (0.0, 3.0, 4.0, 5.0, 6.0, 8.0)


@dataclass(frozen=True)
class Sample:
    """What is judged by: the catalog, its clean galaxies, kinds and flags of all, and noise."""

    data: Path
    galaxies: Galaxies
    rows: NDArray[np.intp]
    fold: NDArray[np.intp]
    kept: NDArray[np.bool_]
    kinds: NDArray[np.str_]
    flags: NDArray[np.int32]
    peer: EigenScan

    @classmethod
    def read(cls, data: Path) -> Sample:
        """Read the real spectra."""
        galaxies = read_galaxies(data)
        rows = np.flatnonzero(galaxies.clean)
        catalog = read_catalog(data)
        log_wave = np.log10(SDSS().wave_obs.numpy().astype(np.float64))
        return cls(
            data,
            galaxies,
            rows,
            folds(galaxies.objects[rows]),
            kept_aside(galaxies, rows),
            np.array([str(kind).strip() for kind in catalog["CLASS"]]),
            np.asarray(catalog["ZWARNING"], np.int32),
            EigenScan(data / "templates" / PEER, log_wave, Z_RANGE),
        )

    def judge(
        self, model: SpectrumModel, latents: torch.Tensor, rows: NDArray[np.intp], held: NDArray[np.intp]
    ) -> Judge:
        """Prepare a model that has not seen the galaxies of these rows."""
        basis = Basis.of(model, latents)
        instrument = model.encoder.instrument
        reach = scannable(instrument.wave_obs.numpy(), model.wave_rest.numpy(), Z_RANGE)
        mocks = [EigenGalaxies(self.data, self.galaxies, each) for each in (rows, held)]
        return Judge(model, basis, RedshiftEstimator(instrument, basis.templates, reach), rows, held, *mocks)


@torch.no_grad()
def by_folds(sample: Sample, folder: Path) -> Iterator[tuple[Judge, NDArray[np.intp]]]:
    """Prepare the model of each fold, and give it with the galaxies that constants are set on."""
    for k in range(N_FOLD):
        model = load_model(folder / f"fold-{k}.pt", SDSS())[0].eval()
        latents = model.encode(torch.from_numpy(sample.galaxies.flux[sample.rows[sample.fold != k]]))
        mine = sample.fold == k
        judge = sample.judge(model, latents, sample.rows[mine], sample.rows[mine & sample.kept])
        yield judge, sample.rows[mine & ~sample.kept]


def shipped(sample: Sample) -> Judge:
    """Prepare the model that ships."""
    kept = sample.rows[sample.kept]
    model = load_model(SHIPPED, SDSS())[0].eval()
    return sample.judge(model, read_extras(SHIPPED)["latents"].float(), kept, kept)


def figures(sample: Sample, judges: list[Judge], noises: Noises, sizes: Sizes) -> tuple[list[Figure], str]:
    """Every figure, and the flagged spectra in words."""
    g, every = sample.galaxies, []

    def add(some: list[Figure]) -> None:
        every.extend(some)
        for figure in some:  # a run takes minutes
            print(f"{figure.name}: {figure.ours} ({figure.wanted})", file=sys.stderr, flush=True)

    add(redshift_figures.blind(judges, g, sample.peer))
    add(redshift_figures.faint(judges, g, noises, sample.peer, sizes))
    of_accepted, answers = redshift_figures.accepted(judges, noises, sizes)
    add(of_accepted)
    add(redshift_figures.errors(judges, g, noises, answers, sizes))
    of_classes, flagged = redshift_figures.classes(judges, g, sample.kinds, sample.flags)
    add(of_classes)
    add(latent_figures.latents(judges, g, noises, sizes))
    add(latent_figures.refined(judges, noises, sizes))
    timed = redshift_figures.real(g, sample.rows)
    add(latent_figures.cost(judges[0], timed, sample.peer, sizes))
    return every, flagged


def settings(sample: Sample, folder: Path, sizes: Sizes) -> str:
    """Say what `DELTA_CHI2` and `FLOOR` are set by: galaxies and noise that are not judged with."""
    judges = []
    for judge, rows in by_folds(sample, folder):
        others = EigenGalaxies(sample.data, sample.galaxies, rows)
        judges.append(replace(judge, held=rows, held_mocks=others))
    noises = Noises.of(sample.data, sample.galaxies, SET)
    mocks = redshift_figures.mocks_of_any_sn(judges, noises, sizes.accepted, 1000)
    a = redshift_figures.joined([redshift_figures.find(judge.estimator, spectra) for judge, spectra in mocks])
    empty = {
        name: judges[0].estimator(*spectra).delta_chi2.numpy()
        for name, spectra in redshift_figures.no_objects(noises, sizes.sky, 1000).items()
    }
    lines = ["| delta chi2 | accepted | wrong | right at S/N >= 3 | at S/N 2 | sky | pure noise |", "|" + "---|" * 7]
    bright, two = a.sn >= 3, (a.sn >= 1.75) & (a.sn < 2.25)
    for threshold in THRESHOLDS:
        ok = a.delta_chi2 >= threshold
        right = ok & ~a.is_wrong
        cells = [
            f"{100 * np.mean(x):.2f} %" for x in (right[bright], right[two], *(e >= threshold for e in empty.values()))
        ]
        lines.append(f"| {threshold:g} | {ok.sum()} | {(ok & a.is_wrong).sum()} | {' | '.join(cells)} |")
    ok = (a.delta_chi2 >= DELTA_CHI2) & ~a.is_wrong & np.isfinite(a.pull)
    alone = np.sqrt(np.maximum(a.error[ok] ** 2 - FLOOR**2, 0))
    lines += ["", "| floor, km/s | NMAD of pulls | S/N 1-2 | 2-5 | 5-20 |", "|" + "---|" * 5]
    for floor in FLOORS:
        pull, sn = a.velocity[ok] / np.hypot(alone, floor), a.sn[ok]
        parts = [pull, *(pull[(sn >= low) & (sn < high)] for low, high in ((1, 2), (2, 5), (5, 20)))]
        lines.append(f"| {floor:g} | " + " | ".join(f"{redshift_figures.nmad(part):.2f}" for part in parts) + " |")
    return "\n".join(lines)


def report(table: pd.DataFrame) -> str:
    """Write figures in Markdown."""
    lines = ["| | required | ours | eigenspectra | met |", "|---|---|---|---|---|"]
    lines += [
        f"| {name} | {row.wanted} | {row.ours} | {row.eigenspectra} | {row.met} |" for name, row in table.iterrows()
    ]
    return "\n".join(lines)


def tabulated(every: list[Figure]) -> pd.DataFrame:
    """Put figures into a table as it is kept."""
    said = {None: "-", True: "yes", False: "no"}
    rows = [(f.wanted, f.ours, f.eigenspectra, said[None if f.met is None else bool(f.met)]) for f in every]
    return pd.DataFrame(rows, columns=["wanted", "ours", "eigenspectra", "met"], index=[f.name for f in every])


def main() -> None:
    """Judge and print; put the tables into their places if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with sas/dr17 and templates")
    parser.add_argument("--folds", type=Path, help="folder that train_galaxies.py wrote")
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md and the page")
    parser.add_argument("--set", action="store_true", help="print what threshold and floor are set by, and no more")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sample = Sample.read(arguments.data)
    if arguments.set:
        print(settings(sample, arguments.folds, Sizes()))
        return
    own = shipped(sample)
    noises = Noises.of(sample.data, sample.galaxies, JUDGED)
    if arguments.folds:
        judges = [judge for judge, _ in by_folds(sample, arguments.folds)]
        every, _ = figures(sample, judges, noises, Sizes())
        tabulated(every).to_csv(TABLE)
    else:
        print(f"no --folds: fold figures are those of {TABLE.name}")
    texts = {"redshifts-folds": report(pd.read_csv(TABLE, index_col=0, keep_default_na=False))}
    every, flagged = figures(sample, [own], noises, Sizes())
    texts["redshifts-shipped"] = f"{report(tabulated(every))}\n\nFlagged: {flagged}."
    print(f"Five folds, each galaxy by the model that has not seen it\n\n{texts['redshifts-folds']}\n")
    print(f"The shipped model, by the galaxies that it has never seen\n\n{texts['redshifts-shipped']}\n")
    if arguments.write:
        for name, text in texts.items():
            write_section(RESULTS, name, text, "science_redshifts.py")
        write_section(PAGE, "redshifts-folds", texts["redshifts-folds"], "science_redshifts.py")
    print(f"missed: {sum(f.met is False or f.met is np.False_ for f in every)}")


if __name__ == "__main__":
    main()
