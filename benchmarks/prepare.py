"""Read and prepare spectra: upstream, a plain astropy reading, spec-lite files and plates here, on the same files.

    python benchmarks/prepare.py [--data ../shared/data] [--files 117] [--rounds 5] [--fibers 640]

All run in this process, one thread, in turns; the medians over the rounds are shown, in ms per spectrum. upstream:
`SDSS.prepare_spectrum`, for the files it takes. astropy: the four columns that a spectrum needs and Z of the second
table, nothing prepared. spec-lite: `read_spec` and `normalize`, from files on the disk as the others. spPlate: one
file of so many fibers, assembled from the same spectra: `read_plate`, then `spectrum` and `normalize` per fiber. Equal
counts the spectra whose flux, ivar and wavelengths are bit by bit those of astropy's reading, and the prepared ones
that are bit by bit upstream's (the rest are what upstream cannot prepare or masks by fiber-level bits). The last line
is upstream's time over that of spec-lite.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from astropy.io import fits as astropy_fits
from spender.data.sdss import SDSS as UPSTREAM

from pipeline.spectra.normalize import Grid, NormalizedSpectrum, normalize
from pipeline.spectra.raw import RawSpectrum
from pipeline.surveys.sdss.files import read_plate, read_spec
from spender_core import SDSS

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.plates import assemble

Prepared = tuple[torch.Tensor, ...]


def by_upstream(files: list[Path]) -> list[Prepared | None]:
    """Prepare files with upstream; None for those that it raises for."""
    found: list[Prepared | None] = []
    for file in files:
        try:
            found.append(UPSTREAM.prepare_spectrum(str(file)))
        except Exception:  # whatever it raises is its way of not taking a file
            found.append(None)
    return found


def by_astropy(files: list[Path]) -> list[dict[str, np.ndarray]]:
    """Read the columns of files with astropy."""
    found = []
    for file in files:
        with astropy_fits.open(file) as hdus:
            table = {name.lower(): name for name in hdus[1].columns.names}
            columns = {name: np.array(hdus[1].data[table[name]]) for name in ("flux", "ivar", "loglam", "and_mask")}
            if len(hdus) > 2:
                columns["z"] = hdus[2].data["Z"][0]
            found.append(columns)
    return found


def by_file(files: list[Path], grid: Grid) -> list[tuple[RawSpectrum, NormalizedSpectrum]]:
    """Read and normalize spec-lite files."""
    raws = [read_spec(file.read_bytes()) for file in files]
    return [(raw, normalize(raw, raw.z or 0.0, grid)) for raw in raws]


def by_plate(plate: Path, fibers: int, grid: Grid) -> int:
    """Read a plate and normalize all of its fibers."""
    opened = read_plate(plate.read_bytes())
    for fiberid in range(1, fibers + 1):
        normalize(opened.spectrum(fiberid), 0.1, grid)
    return fibers


def seconds(action: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def as_astropy(files: list[Path], grid: Grid) -> int:
    """Count the files that are read as astropy reads them, bit by bit."""
    pairs = zip(by_file(files, grid), by_astropy(files), strict=True)
    names = {"flux": "flux", "ivar": "ivar", "axis": "loglam", "mask": "and_mask"}
    return sum(
        all(np.array_equal(getattr(raw, ours), read[theirs]) for ours, theirs in names.items())
        for (raw, _), read in pairs
    )


def as_upstream(files: list[Path], grid: Grid) -> tuple[int, int]:
    """Count the files that upstream prepares to finite numbers, and those that are prepared to the same bits here."""
    taken = equal = 0
    for (_, ours), theirs in zip(by_file(files, grid), by_upstream(files), strict=True):
        if theirs is None or not torch.isfinite(theirs[0]).all():
            continue
        taken += 1
        flux, ivar, norm = (value.numpy() for value in theirs[:3])
        equal += np.array_equal(flux, ours.flux) and np.array_equal(ivar, ours.ivar) and norm == ours.norm
    return taken, equal


def main() -> None:
    """Measure, print the table and the ratio."""
    parser = argparse.ArgumentParser(description="Read and prepare spectra, beside upstream and astropy.")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--files", type=int, default=117)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--fibers", type=int, default=640)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # upstream's own, about the files
    grid = Grid.of(SDSS())
    files = sorted((options.data / "sas").rglob("sdss/**/spec-*.fits"))[: options.files]
    with tempfile.TemporaryDirectory() as folder:
        plate = Path(folder) / "spPlate.fits"
        plate.write_bytes(assemble([files[i % len(files)] for i in range(options.fibers)], plate=1, mjd=51602))
        ways: dict[str, tuple[Callable[[], object], int]] = {
            "upstream": (lambda: by_upstream(files), len(files)),
            "astropy, reading alone": (lambda: by_astropy(files), len(files)),
            "spec-lite": (lambda: by_file(files, grid), len(files)),
            "spPlate": (lambda: by_plate(plate, options.fibers, grid), options.fibers),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, (action, count) in ways.items():
                times[name].append(seconds(action) / count * 1e3)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{len(files)} files, a plate of {options.fibers} fibers, {options.rounds} rounds")
    print(f"{'':24} {'ms/spectrum':>11} {'upstream over it':>16} {'astropy over it':>15}")
    for name, value in medians.items():
        ratios = (medians["upstream"] / value, medians["astropy, reading alone"] / value)
        print(f"{name:24} {value:11.3f} {ratios[0]:16.1f} {ratios[1]:15.1f}")
    taken, equal = as_upstream(files, grid)
    print(f"equal to astropy's reading: {as_astropy(files, grid)} of {len(files)}")
    print(f"equal to upstream's preparation: {equal} of the {taken} that it prepares")
    print(f"ratio: {medians['upstream'] / medians['spec-lite']:.2f}")


if __name__ == "__main__":
    main()
