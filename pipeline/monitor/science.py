"""The science of a run at a glance, as pictures' paths in their own units: what was encoded, how well, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.catalog import targets as target_table
from pipeline.errors import ConfigError
from pipeline.monitor.units import number
from pipeline.planning.plan import Plan
from pipeline.results.data import RunData
from pipeline.results.spectrum import Floats, Spectrum, read_spectra
from pipeline.results.tables.table import ResultsTable
from pipeline.spectra.quality import Quality
from pipeline.store.root import targets_url

MOST = 2**18
"""Spectra that the pictures are made of, at most, about: whole chunks, spread over the run."""

WORST, IDS, LATENTS = 6, 5, 8
"""Spectra that fit worst, and as many that are rarest; ids of each quality bit; latents in the corner plot."""

_PICTURED = ("sn_median", "class", "chi2_n", "ra", "dec", "latents", "log_prob")

LEVELS = 4
"""Shades of a density."""

_BINS, _CELLS = 40, 24


@dataclass(frozen=True)
class Picture:
    """A picture: size, and paths with their styles. texts: (x, y, anchor, text)."""

    title: str
    width: int
    height: int
    paths: list[tuple[str, str]] = field(default_factory=list)
    texts: list[tuple[float, float, str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Science:
    """What a model made of a run so far.

    spectra: of which chunks are done; shown: those that the pictures are of. classes: name, number and share of each.
    bits: name of each quality bit that is set, how many have it, and the ids of the first. problem: why none.
    """

    model: str
    spectra: int = 0
    shown: int = 0
    histograms: list[Picture] = field(default_factory=list)
    classes: list[tuple[str, int, float]] = field(default_factory=list)
    corner: Picture | None = None
    sky: Picture | None = None
    worst: list[Picture] = field(default_factory=list)
    rarest: list[Picture] = field(default_factory=list)
    bits: list[tuple[str, int, list[str]]] = field(default_factory=list)
    problem: str = ""


def read_science(root: str, plan: Plan) -> list[Science]:
    """Read what each model of a plan made of the chunks that are done. What cannot be read has a problem in words."""
    found = []
    for model in plan.models:
        try:
            run = RunData(root)
            run.encodings(model.name)
            found.append(_of_table(run, ResultsTable(run.root, run.plan, run.plan.model(model.name))))
        except (ConfigError, OSError) as error:
            reason = getattr(error, "problem", None) or error
            found.append(Science(model.name, problem=" ".join(str(reason).split())))
    return found


def _of_table(run: RunData, table: ResultsTable) -> Science:
    n = sum(stop - start for start, stop in table.bounds)
    if not n:
        return Science(table.model.name, problem="nothing is encoded yet")
    every = -(-n // MOST)
    known = {column.name: column for column in table.available}
    names = [name for name in ("z", "z_fit", *_PICTURED) if name in known]
    parts = [table.read(start, stop, [*names, "quality"]) for start, stop in table.bounds[::every]]
    values = {name: np.concatenate([part[name] for part in parts]) for name in [*names, "quality"]}
    rows = np.concatenate([np.arange(start, stop) for start, stop in table.bounds[::every]])
    usable = (values["quality"] & np.uint32(table.plan.unusable)) == 0
    labels = {
        "z_fit" if "z_fit" in known else "z": "redshift",
        "sn_median": "S/N per pixel",
        "chi2_n": "chi2 per pixel",
    }
    rarity, scores = _rarity(values)
    pictures = [histogram(values[name][usable], label) for name, label in labels.items() if name in values]
    return Science(
        table.model.name,
        n,
        len(rows),
        [picture for picture in pictures if picture is not None],
        _classes(values["class"][usable]) if "class" in values else [],
        corner(values["latents"][usable]) if "latents" in values else None,
        sky(values["ra"], values["dec"]) if {"ra", "dec"} <= set(values) else None,
        _highest(run, table, values.get("chi2_n"), usable, rows, "chi2/n"),
        _highest(run, table, scores, usable, rows, rarity),
        _bits(table),
    )


def _classes(values: NDArray[Any]) -> list[tuple[str, int, float]]:
    names, counts = np.unique([str(value).strip() or "none" for value in values], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:12]
    return [(str(names[i]), int(counts[i]), float(counts[i] / len(values))) for i in order]


def _rarity(values: dict[str, NDArray[Any]]) -> tuple[str, Floats | None]:
    """Return how rare spectra are, and what that is called; None where nothing tells.

    By the density of their latents, else by the distance of the whitened latents from their mean.
    """
    if "log_prob" in values and np.isfinite(values["log_prob"]).any():
        return "-log p", -values["log_prob"].astype(np.float64)
    if "latents" not in values:
        return "", None
    latents = values["latents"].astype(np.float64)
    finite = np.isfinite(latents).all(axis=1)
    if finite.sum() <= latents.shape[1] + 1:
        return "", None  # in as many dimensions as there are spectra all are as far away
    off = latents - latents[finite].mean(axis=0)
    inverse = np.linalg.pinv(np.cov(latents[finite].T).reshape(latents.shape[1], -1), hermitian=True)
    return "distance", np.sqrt(np.maximum(np.einsum("ni,ij,nj->n", off, inverse, off), 0))


def _highest(
    run: RunData,
    table: ResultsTable,
    scores: Floats | None,
    usable: NDArray[np.bool_],
    rows: NDArray[np.intp],
    name: str,
) -> list[Picture]:
    """Draw the spectra with the highest scores."""
    if scores is None:
        return []
    order = np.argsort(np.where(usable & np.isfinite(scores), -scores, np.inf), kind="stable")[:WORST]
    order = order[usable[order] & np.isfinite(scores[order])]
    spectra = read_spectra(run, sorted(rows[order].tolist()), table.model.name) if len(order) else []
    by_row = dict(zip(sorted(rows[order].tolist()), spectra, strict=True))
    return [small(by_row[int(rows[i])], f"{name} {scores[i]:.3g}") for i in order]


def _bits(table: ResultsTable) -> list[tuple[str, int, list[str]]]:
    """Count the quality bits of all that is done, and name the first spectra of each."""
    parts = [(start, table.read(start, stop, ["quality"])["quality"]) for start, stop in table.bounds]
    found = []
    for bit in Quality:
        rows = [start + np.flatnonzero(quality & np.uint32(bit)) for start, quality in parts]
        having = np.concatenate(rows)
        if len(having):
            keys = [_key(table, int(row)) for row in having[:IDS]]
            found.append(((bit.name or "").lower(), len(having), keys))
    return found


def _key(table: ResultsTable, row: int) -> str:
    plan = table.plan
    return str(target_table.read_rows(targets_url(table.root), row, row + 1, plan.survey)["target"].iloc[0])


def histogram(values: NDArray[Any], label: str) -> Picture | None:
    """Draw how many of N values, shape (N,), lie where; None without any.

    The last bin holds all that lies beyond the 99th percentile, and beyond eight times the median.
    """
    values = values[np.isfinite(values)].astype(np.float64)
    if not len(values):
        return None
    low, high = float(values.min()), float(np.percentile(values, 99))
    high = min(high, 8 * float(np.median(values))) if np.median(values) > 0 else high
    high = high if high > low else low + 1.0
    counts, edges = np.histogram(np.clip(values, low, high), bins=_BINS, range=(low, high))
    width, height, left, floor = 280, 150, 8, 118
    x = left + (width - 2 * left) * (edges - low) / (high - low)
    y = floor - 98 * counts / counts.max()
    path = "".join(f"M{a:.1f} {floor}V{top:.1f}H{b:.1f}V{floor}Z" for a, b, top in zip(x[:-1], x[1:], y, strict=True))
    middle = float(np.median(values))
    at = left + (width - 2 * left) * (min(middle, high) - low) / (high - low)
    texts = [
        (left, floor + 16.0, "start", f"{low:.3g}"),
        (width - left, floor + 16.0, "end", f"{high:.3g}" + ("+" if values.max() > high else "")),
        (width / 2, floor + 28.0, "middle", f"{label}, median {middle:.3g}"),
        (left, 11.0, "start", f"{number(int(counts.max()))} in the highest bin"),
    ]
    return Picture(label, width, height, [("f1", path), ("stretch", f"M{at:.1f} {floor}V20")], texts)


def density(
    x: Floats, y: Floats, place: tuple[float, float, float, float], bins: tuple[int, int]
) -> list[tuple[str, str]]:
    """Draw how many points lie where: shades of cells, each a path. x, y: 0 to 1; place: left, top, width, height."""
    counts, _, _ = np.histogram2d(x, y, bins=bins, range=((0, 1), (0, 1)))
    if not counts.max():
        return []
    shade = np.ceil(LEVELS * np.log1p(counts) / np.log1p(counts.max())).astype(int)
    left, top, width, height = place
    w, h = width / bins[0], height / bins[1]
    paths = []
    for level in range(1, LEVELS + 1):
        cells = np.argwhere(shade == level)
        path = "".join(
            f"M{left + i * w:.1f} {top + height - (j + 1) * h:.1f}h{w:.1f}v{h:.1f}h{-w:.1f}Z" for i, j in cells
        )
        if path:
            paths.append((f"d{level}", path))
    return paths


def corner(latents: Floats) -> Picture | None:
    """Draw each latent against each other one, shape (N, S), and their histograms on the diagonal; the first eight."""
    latents = latents[np.isfinite(latents).all(axis=1)][:, :LATENTS].astype(np.float64)
    if not len(latents):
        return None
    low, high = np.percentile(latents, (1, 99), axis=0)
    scaled = np.clip((latents - low) / np.where(high > low, high - low, 1), 0, 1 - 1e-9)
    size, gap, count = 96, 8, latents.shape[1]
    paths, texts = [], []
    for i in range(count):
        for j in range(i + 1):
            left, top = 34 + j * (size + gap), 4 + i * (size + gap)
            paths.append(("frame", f"M{left} {top}h{size}v{size}h{-size}Z"))
            if i != j:
                paths += density(scaled[:, j], scaled[:, i], (left, top, size, size), (_CELLS, _CELLS))
                continue
            counts, _ = np.histogram(scaled[:, i], bins=_CELLS, range=(0, 1))
            step = size / _CELLS
            bars = (
                f"M{left + k * step:.1f} {top + size}v{-0.92 * size * c / counts.max():.1f}h{step:.1f}V{top + size}Z"
                for k, c in enumerate(counts.tolist())
            )
            paths.append(("f1", "".join(bars)))
        texts.append((28.0, 4 + i * (size + gap) + size / 2, "end", f"l{i}"))
        texts.append((34 + i * (size + gap) + size / 2, 4 + count * (size + gap) + 10.0, "middle", f"l{i}"))
    extent = 34 + count * (size + gap)
    return Picture("latents against each other", extent, 4 + count * (size + gap) + 18, paths, texts)


def sky(ra: Floats, dec: Floats) -> Picture | None:
    """Draw where on the sky spectra lie, degrees, shape (N,): Hammer's projection, of equal areas, east to the left."""
    known = np.isfinite(ra) & np.isfinite(dec) & (np.abs(dec) <= 90)
    if not known.any():
        return None
    width, height = 640, 340
    box = (10.0, 10.0, 620.0, 310.0)
    x, y = _hammer(ra[known], dec[known])
    paths = density(x, y, box, (124, 62))
    for meridian in range(0, 361, 60):
        edge = [180 + 1e-6] if meridian == 360 else [meridian + 180 - 1e-6]
        paths.append(("net", _line(*_hammer(np.full(61, edge[0] % 360), np.linspace(-90, 90, 61)), box)))
    for parallel in range(-60, 61, 30):
        paths.append(
            ("net", _line(*_hammer(np.linspace(180 + 1e-6, 540 - 1e-6, 121) % 360, np.full(121, parallel)), box))
        )
    texts = [(width / 2, height - 4.0, "middle", "right ascension 0 in the middle, east to the left")]
    return Picture("where the spectra lie on the sky", width, height, paths, texts)


def _hammer(ra: Floats, dec: Floats) -> tuple[Floats, Floats]:
    """Return places on the map, 0 to 1."""
    longitude = np.radians((np.asarray(ra, np.float64) + 180) % 360 - 180)
    latitude = np.radians(np.asarray(dec, np.float64))
    root = np.sqrt(1 + np.cos(latitude) * np.cos(longitude / 2))
    x, y = np.cos(latitude) * np.sin(longitude / 2) / root, np.sin(latitude) / root
    return (1 - x) / 2, (1 + y) / 2


def small(spectrum: Spectrum, said: str) -> Picture:
    """Draw one spectrum with its reconstruction, small, and say something of it."""
    width, height = 280, 130
    seen = spectrum.observed & ~spectrum.masked
    flux = _averaged(np.where(seen, spectrum.flux, np.nan))
    model = _averaged(np.where(spectrum.observed, spectrum.reconstruction, np.nan))
    finite = np.concatenate([each[np.isfinite(each)] for each in (flux, model)])
    low, high = np.percentile(finite, (0.5, 99.5)) if len(finite) else (0.0, 1.0)
    high = high if high > low else low + 1.0
    x = np.linspace(0, 1, len(flux))
    box = (6.0, 18.0, width - 12.0, height - 36.0)

    def line(values: Floats) -> str:
        return _line(x, np.clip((values - low) / (high - low), -0.05, 1.05), box)

    texts = [
        (6.0, 11.0, "start", f"{spectrum.target}  z {spectrum.z:.4f}"),
        (6.0, height - 4.0, "start", f"{spectrum.wavelength[0]:.0f}"),
        (width - 6.0, height - 4.0, "end", f"{spectrum.wavelength[-1]:.0f}"),
        (width / 2, height - 4.0, "middle", said),
    ]
    return Picture(spectrum.target, width, height, [("data", line(flux)), ("model", line(model))], texts)


def _averaged(values: Floats, pixels: int = 8) -> Floats:
    """Return the means of so many pixels each, NaN where none is known."""
    whole = values[: len(values) // pixels * pixels].reshape(-1, pixels)
    known = np.isfinite(whole)
    count = known.sum(axis=1)
    return np.where(count > 0, np.where(known, whole, 0).sum(axis=1) / np.maximum(count, 1), np.nan)


def _line(x: Floats, y: Floats, box: Sequence[float]) -> str:
    """Return the path through points, 0 to 1 each, which is broken where one is not known."""
    left, top, width, height = box
    path, is_open = [], False
    for a, b in zip(x.tolist(), y.tolist(), strict=True):
        if not np.isfinite(b):
            is_open = False
            continue
        path.append(f"{'L' if is_open else 'M'}{left + width * a:.1f} {top + height * (1 - b):.1f}")
        is_open = True
    return "".join(path)
