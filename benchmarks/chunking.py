"""Choose the inner chunk and the compression of the stores by measurement.

    python benchmarks/chunking.py [--spectra 1024] [--data ../shared/data] [--chunks 1 4 8 16 32 64 128 256 1024]

One shard of each array is written and read back per choice, restframes first, then flux and ivar. Flux and ivar are
the real spectra under --data, normalized, each copy shifted along the grid and rescaled at random so that no two rows
share bytes; restframes are random mixtures of the SDSS pipeline's eigenspectra. Without the data both are smooth
made-up continua, the observed ones with noise. Columns: stored bytes per spectrum, write and read rate of the
uncompressed bytes, time to read one spectrum, kB fetched for it (its inner chunks and the shards' indices). Then the
requests that readers of a spectra store make, counted at a store of two shards: each is one GET of an object store.
The last line is the time to read flux and ivar of one spectrum from the largest chunk over that from the chosen one.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from astropy.io import fits as astropy_fits
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, ZstdCodec
from zarr.storage import LocalStore, LoggingStore

from pipeline.config import SurveyConfig
from pipeline.planning.partition import CHUNK
from pipeline.planning.plan import CODECS, Plan
from pipeline.spectra import normalize
from pipeline.store.arrays import create, spectra_url, write_region
from pipeline.store.template import compressors, spectra_template
from pipeline.surveys.registry import get_survey
from pipeline.surveys.sdss.files import read_spec
from spender_core import SDSS

Arrays = dict[str, NDArray[np.float32]]

CHOSEN = "chosen"
OTHERS: dict[str, tuple[Any, ...]] = {
    "none": (),
    "zstd-1": (ZstdCodec(level=1),),
    "zstd-3": (ZstdCodec(level=3),),
    "zstd-7": (ZstdCodec(level=7),),
    "blosc-lz4-5 shuffle": (BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"),),
    "blosc-zstd-1 shuffle": (BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"),),
    "blosc-zstd-3 shuffle": (BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"),),
    "blosc-zstd-5 shuffle": (BloscCodec(cname="zstd", clevel=5, shuffle="shuffle"),),
    "blosc-zstd-3 bitshuffle": (BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),),
    "blosc-lz4-9 bitshuffle": (BloscCodec(cname="lz4", clevel=9, shuffle="bitshuffle"),),
}


def codecs_of(name: str, codec: str) -> tuple[Any, ...]:
    """Return the codecs of a variable; those chosen differ from one to the other."""
    return compressors(CODECS, name) if codec == CHOSEN else OTHERS[codec]


@dataclass(frozen=True)
class Row:
    """What was measured for one choice: bytes per spectrum, bytes/s, bytes/s, seconds, bytes."""

    stored: float
    write: float
    read: float
    one: float
    fetched: float

    def __str__(self) -> str:
        rates = f"{self.stored:10.0f} {self.write / 1e6:10.0f} {self.read / 1e6:9.0f}"
        return f"{rates} {self.one * 1e3:7.2f} {self.fetched / 1e3:7.0f}"


def observed(data: Path, n: int) -> Arrays:
    """Return n rows of flux and ivar on the SDSS grid, each shifted and rescaled by its own random amounts."""
    base = _real(data / "sas" / "dr17") if (data / "sas" / "dr17").is_dir() else _made_up()
    random = np.random.default_rng(0)
    rows, shifts = random.integers(len(base["flux"]), size=n), random.integers(base["flux"].shape[1], size=n)
    factors = np.exp(random.normal(0, 0.1, size=n)).astype(np.float32)
    drawn = list(zip(rows, shifts, factors, strict=True))
    return {
        "flux": np.stack([np.roll(base["flux"][row], shift) * factor for row, shift, factor in drawn]),
        "ivar": np.stack([np.roll(base["ivar"][row], shift) / factor**2 for row, shift, factor in drawn]),
    }


def restframes(data: Path, n: int, bins: int = 7000) -> Arrays:
    """Return n mixtures of four eigenspectra on a restframe grid, in units of their median."""
    wavelength = np.geomspace(2359, 9332, bins)
    path = data / "templates" / "spEigenGal-56436.fits"
    if path.is_file():
        with astropy_fits.open(path) as file:
            start, step, templates = file[0].header["COEFF0"], file[0].header["COEFF1"], file[0].data[:4]
        grid = 10 ** (start + step * np.arange(templates.shape[1]))
    else:
        grid = wavelength
        templates = np.stack([np.sin(k * np.log(grid)) + 2 for k in (1, 3, 7, 20)])
    basis = np.stack([np.interp(wavelength, grid, template) for template in templates])
    spread = np.random.default_rng(0).normal(0, [0.3, 0.1, 0.1, 0.05], size=(n, 4))
    mixtures = (spread + [1, 0, 0, 0]) @ basis
    return {"restframe": (mixtures / np.median(mixtures, axis=1, keepdims=True)).astype(np.float32)}


def _real(mirror: Path) -> Arrays:
    grid = normalize.Grid.of(SDSS())
    found = []
    for path in sorted(mirror.rglob("spec-*.fits")):
        raw = read_spec(path.read_bytes())
        spectrum = normalize.normalize(raw, raw.z or 0.0, grid)
        if np.isfinite(spectrum.flux).all() and (spectrum.ivar > 0).any():
            found.append(spectrum)
    return {"flux": np.stack([each.flux for each in found]), "ivar": np.stack([each.ivar for each in found])}


def _made_up() -> Arrays:
    random = np.random.default_rng(1)
    pixels = np.linspace(0, 1, 3921)
    sigma = (0.02 + 0.2 * random.random((100, 1))) * (1 + pixels**2)
    flux = 1 + np.sin(7 * pixels + 6 * random.random((100, 1))) / 3 + sigma * random.standard_normal((100, 3921))
    return {"flux": flux.astype(np.float32), "ivar": (1 / sigma**2).astype(np.float32)}


def measure(values: Arrays, codec: str, chunk: int, repeats: int = 3, reads: int = 21) -> Row:
    """Write one shard of each array, read it back whole and spectrum by spectrum; the best and the median time."""
    n = len(next(iter(values.values())))
    size = sum(array.nbytes for array in values.values())
    with tempfile.TemporaryDirectory() as folder:
        arrays = {name: _create(folder, name, array, codecs_of(name, codec), chunk) for name, array in values.items()}
        write = min(_seconds(partial(_write, arrays, values)) for _ in range(repeats))
        read = min(_seconds(partial(_read, arrays, slice(None))) for _ in range(repeats))
        rows = np.random.default_rng(2).integers(n, size=reads).tolist()
        one = float(np.median([_seconds(partial(_read, arrays, row)) for row in rows]))
        stored = sum(path.stat().st_size for path in Path(folder).rglob("c/*/*"))
    index = len(values) * (16 * (n // chunk) + 4)
    return Row(stored / n, size / write, size / read, one, (stored - index) * chunk / n + index)


def _create(
    folder: str, name: str, values: NDArray[np.float32], codecs: tuple[Any, ...], chunk: int
) -> zarr.Array[Any]:
    return zarr.create_array(
        LocalStore(folder),
        name=name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=(chunk, values.shape[1]),
        shards=values.shape,
        compressors=codecs,
        config={"write_empty_chunks": True},
    )


def _write(arrays: dict[str, zarr.Array[Any]], values: Arrays) -> None:
    for name, array in arrays.items():
        array[...] = values[name]


def _read(arrays: dict[str, zarr.Array[Any]], rows: slice | int) -> None:
    for array in arrays.values():
        array[rows]


def _seconds(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def choices(chunks: list[int], n: int) -> Iterator[tuple[str, int]]:
    """Yield the choices to measure: every chunk with the chosen codec, every codec with the chosen chunk."""
    yield from ((CHOSEN, chunk) for chunk in chunks if n % chunk == 0)
    yield from ((codec, min(CHUNK, n)) for codec in OTHERS)


def requests(folder: str, n: int, shard: int) -> dict[str, int]:
    """Count the objects or parts of objects fetched from a spectra store of n spectra, for what readers do with it."""
    targets = pd.DataFrame(
        {name: _column(coordinate.dtype, n) for name, coordinate in get_survey("sdss").coordinates.items()}
    )
    config = SurveyConfig(source="archive", targets="catalog", shard=shard)
    made = Plan.create(config, targets)
    wavelength = normalize.Grid.of(SDSS()).wavelength
    url = spectra_url(folder)
    create(url, *spectra_template(made, targets, wavelength))
    noise = np.random.default_rng(3).standard_normal((shard, made.n_pixels), np.float32)
    for each in made.shards():
        arrays = {"flux": noise, "ivar": noise**2, "norm": noise[:, 0] ** 2, "quality": np.zeros(shard, np.uint32)}
        write_region(url, each, arrays)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that Zarr's specification does not know consolidated metadata yet
        zarr.consolidate_metadata(LocalStore(url))
    found: dict[str, int] = {}
    for what, names, rows in (
        ("open", (), slice(0)),
        ("one spectrum", ("flux", "ivar"), slice(5, 6)),
        (f"{CHUNK} spectra of one chunk", ("flux", "ivar"), slice(0, CHUNK)),
        (f"one shard, {shard} spectra", ("flux", "ivar"), slice(0, shard)),
        (f"all redshifts, {n}", ("z",), slice(n)),
        (f"all of quality, {n}", ("quality",), slice(n)),
    ):
        store = LoggingStore(LocalStore(url, read_only=True), log_level="CRITICAL")
        group = zarr.open_group(store, mode="r", zarr_format=3)
        opened = store.counter["get"]
        for name in names:
            group[name][rows]  # type: ignore[index]
        found[what] = store.counter["get"] - (opened if names else 0)
    return found


def _column(dtype: str, n: int) -> NDArray[Any] | list[str]:
    return [f"26/266-51602-{i}" for i in range(n)] if dtype == "str" else np.arange(n).astype(dtype)


def main() -> None:
    """Measure, print the tables and the ratio."""
    parser = argparse.ArgumentParser(description="Choose the inner chunk and the compression of the stores.")
    parser.add_argument("--spectra", type=int, default=1024)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--chunks", type=int, nargs="+", default=[1, 4, 8, 16, 32, 64, 128, 256, 1024])
    options = parser.parse_args()
    one: dict[int, float] = {}
    for make in (restframes, observed):
        values = make(options.data, options.spectra)
        title = " and ".join(values)
        print(f"{title:24} {'chunk':>5} {'B/spectrum':>10} {'write MB/s':>10} {'read MB/s':>9} {'one ms':>7} {'kB':>7}")
        for codec, chunk in choices(options.chunks, options.spectra):
            row = measure(values, codec, chunk)
            print(f"{codec:24} {chunk:5d} {row}", flush=True)
            if codec == CHOSEN:
                one[chunk] = row.one
    with tempfile.TemporaryDirectory() as folder:
        shard = min(1024, options.spectra)
        print(f"{'read of spectra.zarr':32} {'requests':>8}")
        for what, count in requests(folder, 2 * shard, shard).items():
            print(f"{what:32} {count:8d}")
    print(f"ratio: {one[max(one)] / one.get(CHUNK, one[min(one)]):.2f}")


if __name__ == "__main__":
    main()
