"""Whether the worst run of pixels is where a feature was put: mocks with an offset in 20 pixels, as a model sees them.

    python benchmarks/reasons.py [--data ../shared/data] [--spectra 1000] [--amplitudes 1,1.5,2,3,6] [--write]

Each mock of a galaxy gets an offset of so many sigma in each of 20 valid pixels in a row, above or below, before it is
encoded: what the model takes for its own is lost. A feature is found where the worst run overlaps it by half and has
its sign. Galaxies are those of good.py, many of which the model fits badly; the share of those that it fits with chi2
of at most 2 per pixel is printed, too. The last line is the share that is found at 6 sigma per pixel, of all, over
0.95. Before it: what the reasons take, of an encoding with plain outputs.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from good import Kind, galaxies, mocks
from numpy.typing import NDArray
from science_training import write_section

from pipeline.compute.stages.infer import encode_spectra
from pipeline.spectra.normalize import Grid, normalize
from pipeline.spectra.raw import RawSpectrum
from spender_core import SDSS, load_model
from spender_core.model import SpectrumModel
from spender_core.residuals import LONGEST_SPAN, RUN

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
SEED, WANTED, SHARE = 5, 6.0, 0.95
TIMED, ROUNDS = 128, 4
WELL = 2.0  # chi2 per pixel, of mocks without a feature
PLAIN = ("latents", "restframe", "chi2", "n_pixels", "amplitude", "rest_first", "rest_last")
REASONS = ("region_chi2", "run_significance", "run_wavelength")

Floats = NDArray[np.float32]


def made(data: Path, n: int, rng: np.random.Generator) -> tuple[Floats, Floats, Floats, NDArray[np.uint32]]:
    """Return mocks as ingest stores them: flux, ivar, both (N, L), z and quality, (N,)."""
    grid, spectra = Grid.of(SDSS()), mocks(Kind("galaxies", "GALAXY", True, galaxies(data, rng, 0.02, 0.5)), n, rng)
    found = []
    for each in spectra:
        parts = (each.flux.astype(np.float32), each.ivar.astype(np.float32), each.loglam.astype(np.float32))
        found.append(normalize(RawSpectrum(*parts, each.and_mask.astype(np.int64), masking_bits=~0xFFFF), each.z, grid))
    flux, ivar = np.stack([each.flux for each in found]), np.stack([each.ivar for each in found])
    return flux, ivar, np.array([e.z for e in spectra], np.float32), np.array([e.quality for e in found], np.uint32)


def with_features(
    flux: Floats, ivar: Floats, amplitude: float, rng: np.random.Generator
) -> tuple[Floats, NDArray[np.intp], NDArray[np.intp]]:
    """Return spectra with a feature each, its pixels, shape (N, 20), and its sign."""
    flux, pixels = flux.copy(), np.empty((len(flux), RUN), np.intp)
    signs = rng.choice((-1, 1), len(flux))
    for i in range(len(flux)):
        used = np.flatnonzero(ivar[i] > 0)
        first = rng.integers(len(used) - RUN + 1)
        while used[first + RUN - 1] - used[first] >= LONGEST_SPAN:
            first = rng.integers(len(used) - RUN + 1)
        pixels[i] = used[first : first + RUN]
        flux[i, pixels[i]] += signs[i] * amplitude / np.sqrt(ivar[i, pixels[i]])
    return flux, pixels, signs


def encoded(model: SpectrumModel, spectra: tuple[Any, ...], outputs: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Encode spectra on one core."""
    return encode_spectra(model, *spectra, outputs=outputs, micro_batch=32, device=torch.device("cpu")).outputs


def is_found(found: dict[str, NDArray[Any]], ivar: Floats, pixels: NDArray[np.intp], signs: NDArray[np.intp]) -> Any:  # noqa: ANN401
    """Tell which features the worst runs overlap by half, with their sign, shape (N,)."""
    wave = SDSS().wave_obs.numpy()
    near = np.empty(len(signs), np.bool_)
    for i, middle in enumerate(found["run_wavelength"]):
        used = np.flatnonzero(ivar[i] > 0)
        place = np.searchsorted(wave[used], middle)
        near[i] = abs(place - np.searchsorted(used, pixels[i, RUN // 2])) <= RUN // 2
    return near & (np.sign(found["run_significance"]) == signs)


def cost(model: SpectrumModel, spectra: tuple[Any, ...]) -> float:
    """Return what the reasons take of an encoding with plain outputs, by the least of turns of both."""
    least = dict.fromkeys((PLAIN, (*PLAIN, *REASONS)), np.inf)
    for outputs in list(least) * ROUNDS:
        start = time.process_time()
        encoded(model, spectra, outputs)
        least[outputs] = min(least[outputs], time.process_time() - start)
    plain, both = least.values()
    return both / plain - 1


def report(data: Path, n: int, amplitudes: list[float]) -> tuple[str, float]:
    """Return the table as Markdown, and the share of all features that is found at WANTED sigma, or the strongest."""
    rng = np.random.default_rng(SEED)
    model, _ = load_model("sdss-galaxies", SDSS())
    flux, ivar, z, quality = made(data, n, rng)
    plain = encoded(model, (flux, ivar, z, quality), (*PLAIN, *REASONS))
    well = plain["chi2"] / plain["n_pixels"] <= WELL
    columns = [("sigma in each pixel", f"of all {n}", f"of {well.sum()} fitted well", "median significance")]
    shares = {}
    for amplitude in amplitudes:
        changed, pixels, signs = with_features(flux, ivar, amplitude, rng)
        found = encoded(model, (changed, ivar, z, quality), REASONS)
        hit = is_found(found, ivar, pixels, signs)
        shares[amplitude] = float(hit.mean())
        significance = np.median(np.abs(found["run_significance"]))
        columns.append((f"{amplitude:g}", f"{hit.mean():.1%}", f"{hit[well].mean():.1%}", f"{significance:.1f}"))
    few = (flux[:TIMED], ivar[:TIMED], z[:TIMED], quality[:TIMED])
    lines = [f"| {' | '.join(cells)} |" for cells in zip(*columns, strict=True)]
    without = np.nanmedian(np.abs(plain["run_significance"]))
    said = f"Without a feature the median is {without:.1f}. The reasons take {cost(model, few):.1%} of an encoding."
    head = [lines[0], "|" + "---|" * len(columns)]
    return "\n".join([*head, *lines[1:], "", said]), shares.get(WANTED, max(shares.values()))


def main() -> None:
    """Print the share that is found of each amplitude, and what the reasons cost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--spectra", type=int, default=1000)
    parser.add_argument("--amplitudes", default="1,1.5,2,3,6")
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    text, share = report(args.data, args.spectra, [float(each) for each in args.amplitudes.split(",")])
    print(text)
    if args.write:
        write_section(RESULTS, "reasons", text, "reasons.py")
    print(f"ratio: {share / SHARE:.2f}")


if __name__ == "__main__":
    main()
