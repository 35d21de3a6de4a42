"""A survey of another shape for tests: other ids, other files, linear pixels; installed as another author's package.

Files are text, one line per pixel: wavelength, flux, inverse variance, mask; the first line names the spectrum. Pixels
and bins are linear in wavelength.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from pipeline.spectra.raw import BadSpectrum, RawSpectrum, WrongSpectrum
from pipeline.surveys.choosing import Candidates, candidates_of, choose_first
from pipeline.surveys.columns import Columns, Coordinate
from pipeline.surveys.survey import CatalogColumns, Layout, Lookup, Provenance, Rows, Survey
from spender_core.instrument import Instrument

MODULE = "toy_survey"
START, STEP, BINS = 5000.0, 2.0, 1500
SATURATED, COSMIC = 1, 2
"""Mask bits: the first masks its pixel, the second speaks of the whole spectrum."""


class ToyInstrument(Instrument):
    """1500 bins of 2 Angstrom."""

    def __init__(self) -> None:
        super().__init__("toygrid", torch.arange(BINS) * STEP + START)


def _path(key: str) -> str:
    night, star = key.split(":")
    return f"nights/{night}/{star}.txt"


def _read(data: bytes) -> RawSpectrum:
    try:
        name, *lines = data.decode().splitlines()
        values = np.array([[float(value) for value in line.split()] for line in lines]).T
        wavelength, flux, ivar, mask = values
        star = int(name)
    except ValueError as error:
        raise BadSpectrum(f"not a toy spectrum: {error}") from error
    return RawSpectrum(
        flux.astype(np.float32),
        ivar.astype(np.float32),
        wavelength.astype(np.float32),
        mask.astype(np.int64),
        masking_bits=SATURATED,
        is_log=False,
        ids={"star": star},
    )


def _spectrum(raw: RawSpectrum, key: str) -> RawSpectrum:
    star = int(key.split(":")[1])
    if raw.contradicts({"star": star}):
        raise WrongSpectrum(f"the file is of star {raw.ids['star']}")
    return raw


def _candidates(available: Sequence[str], given: Mapping[str, str]) -> Candidates:
    found = candidates_of({name: each.aliases for name, each in COORDINATES.items()}, available)
    return found | {ours: (theirs,) for ours, theirs in given.items()}


def _to_rows(columns: Columns, names: Mapping[str, str], url: str) -> Rows:
    found = {ours: columns[theirs] for ours, theirs in names.items()}
    return Rows(
        pa.table(
            {
                "night": pa.array([str(night) for night in found["night"]]),
                "star": found["star"].astype(np.uint64),
                "z": found["z"].astype(np.float32),
            }
        )
    )


def _keys(table: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(table["night"], table["star"].cast(pa.string()), ":")


def _columns_of(text: str) -> Mapping[str, int] | None:
    return {"star": int(text.removeprefix("star "))} if text.startswith("star ") else None


COORDINATES = {
    "target": Coordinate("str", {"long_name": "night:star"}, pattern="[a-z0-9]+:[0-9]+", example="a key such as n1:7"),
    "night": Coordinate("str", {"long_name": "night"}, aliases=("night",), required=True),
    "star": Coordinate("uint64", {"long_name": "number of the star"}, aliases=("star", "star_id"), required=True),
    "z": Coordinate("float32", {"long_name": "redshift", "units": "1"}, aliases=("redshift",), required=True),
}

TOY = Survey(
    name="toy",
    instruments={"toygrid": BINS},
    coordinates=COORDINATES,
    layouts={"text": Layout(_path, _read, _spectrum, size=50_000, at_once=8)},
    catalog=CatalogColumns(_candidates, choose_first, _to_rows, ("night", "star"), _keys),
    lookup=Lookup(names="NIGHT:STAR or star N", columns_of=_columns_of, id_column="star"),
    provenance=Provenance("Toy", "public", "nobody"),
    root="a folder with nights/",
    archive="file:///nowhere",
    selections={"bright": "STAR_ID < 5"},
)

ENTRY_POINTS = f"""[spender_pipeline.surveys]
toy = {MODULE}:TOY
[spender_core.instruments]
toygrid = {MODULE}:ToyInstrument
"""


def install(folder: Path) -> Path:
    """Install this file into a folder with its entry points; a process finds it where the folder is on sys.path."""
    info = folder / f"{MODULE}-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (folder / f"{MODULE}.py").write_text(Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-survey\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(ENTRY_POINTS, encoding="utf-8")
    return folder


def write_release(folder: Path, stars: int = 7) -> Path:
    """Write spectra and their catalog; returns the catalog. Star 3 has no file, star 4 a file that is none."""
    random = np.random.default_rng(3)
    rows = ["NIGHT,STAR_ID,REDSHIFT"]
    for star in range(1, stars + 1):
        night = f"n{star % 2}"
        rows.append(f"{night},{star},{0.01 * star}")
        file = folder / "nights" / night / f"{star}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        wavelength = START - 0.7 + STEP * np.arange(-3, BINS - 10)  # three pixels before the grid, ten bins not reached
        flux = 5 + np.sin(wavelength / 100) + random.normal(0, 0.1, len(wavelength))
        mask = np.where(np.arange(len(wavelength)) == 100, SATURATED, COSMIC if star == 5 else 0)
        lines = [f"{w:.2f} {f:.6f} 100 {m}" for w, f, m in zip(wavelength, flux, mask, strict=True)]
        if star != 3:
            file.write_text("\n".join([str(star), *lines] if star != 4 else ["no numbers here"]))
    catalog = folder / "stars.csv"
    catalog.write_text("\n".join(rows) + "\n")
    return catalog
