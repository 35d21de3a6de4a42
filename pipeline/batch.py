"""`make_batch`: a few spectra by their ids, as tensors, without a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline import storage
from pipeline.fits import BadSpectrum, RawSpectrum, read_spec
from pipeline.layouts import spec_lite_path
from pipeline.normalize import Grid, normalize
from pipeline.quality import Quality
from pipeline.sources import Source
from spender_core.instrument import get_instrument

ARCHIVE = "https://data.sdss.org/sas/dr17"
"""The last release that holds all of SDSS, BOSS and eBOSS in one layout."""

REDUCTIONS = ("26", "103", "104", "v5_13_2")
"""Reductions that DR17 serves; each plate is in one of them."""

Ids = tuple[int, int, int, str | None]
Batch = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def make_batch(
    folder: str | Path, ids: Sequence[Sequence[int | str]], instrument: str = "sdss", *, source: str = ARCHIVE
) -> Batch:
    """Read spectra from a folder or mirror; those it lacks are fetched into it.

    folder: release root in the archive's layout, or a folder of spec files, flat or by plate; a path or
    fsspec URL.
    ids: (plate, mjd, fiberid) or (plate, mjd, fiberid, run2d) per spectrum; without run2d the first reduction
    that has the file is taken.
    instrument: the wavelength grid, "sdss" or "boss". source: release root to fetch from.
    Returns spec (N, L), w (N, L), z (N,), ids (N, 3) int32, norm (N,), zerr (N,); float32 but for ids. spec
    is the flux divided by norm, w its inverse variance, 0 where masked (`normalize.normalize`); z is the
    file's own.
    Raises FileNotFoundError for a file that is nowhere, BadSpectrum for one that is of no use, naming it.
    """
    grid = Grid.of(get_instrument(instrument))
    rows = [_parse(entry) for entry in ids]
    reductions = _reductions(str(folder)) if any(row[3] is None for row in rows) else []
    spectra = [_load(str(folder), row, reductions, source) for row in rows]
    size = len(grid.wavelength)
    spec, w = np.empty((len(rows), size), np.float32), np.empty((len(rows), size), np.float32)
    norm, z, z_err = (np.empty(len(rows), np.float32) for _ in range(3))
    for i, (name, raw) in enumerate(spectra):
        z[i] = np.nan if raw.z is None else raw.z
        z_err[i] = np.nan if raw.z_err is None else raw.z_err
        spectrum = normalize(raw, float(z[i]), grid)
        if spectrum.quality & Quality.UNUSABLE:
            raise BadSpectrum(f"{name}: {Quality.describe(spectrum.quality)}")
        spec[i], w[i], norm[i] = spectrum.flux, spectrum.ivar, spectrum.norm
    keys = np.array([row[:3] for row in rows], np.int32).reshape(-1, 3)
    batch = [torch.from_numpy(array) for array in (spec, w, z, keys, norm, z_err)]
    return batch[0], batch[1], batch[2], batch[3], batch[4], batch[5]


def _parse(entry: Sequence[int | str]) -> Ids:
    if len(entry) not in (3, 4):
        raise ValueError(f"ids are (plate, mjd, fiberid) or (plate, mjd, fiberid, run2d), not {entry!r}")
    plate, mjd, fiberid = (int(value) for value in entry[:3])
    return plate, mjd, fiberid, str(entry[3]) if len(entry) == 4 else None


def _reductions(folder: str) -> list[str]:
    """Name the reductions that a spectrum without run2d is looked for in: the release's, then the folder's own."""
    present = [storage.list_names(storage.join(folder, survey, "spectro", "redux")) for survey in ("sdss", "eboss")]
    return list(dict.fromkeys([*REDUCTIONS, *present[0], *present[1]]))


def _load(folder: str, row: Ids, reductions: list[str], source: str) -> tuple[str, RawSpectrum]:
    """Return the path of a spectrum in the folder, and its content; fetch it first where it is missing."""
    for path in _places(row, reductions):
        try:
            return path, _read(path, storage.read_bytes(storage.join(folder, path)), row)
        except FileNotFoundError:
            continue
    paths = [spec_lite_path(reduction, *row[:3]) for reduction in ([row[3]] if row[3] else REDUCTIONS)]
    if storage.protocol(folder) in ("http", "https"):
        raise FileNotFoundError(f"{paths[0]}: not in {folder}, which cannot be written")
    for path in paths:
        data = Source(source).fetch([path])[0]
        if isinstance(data, bytes):
            raw = _read(path, data, row)  # before it is written: a file of no use is not kept
            storage.write_bytes(storage.join(folder, path), data)
            return path, raw
    raise FileNotFoundError(f"{paths[0]}: neither in {folder} nor in {source}")


def _places(row: Ids, reductions: list[str]) -> Iterator[str]:
    """Name the places where a folder may have the file: as the archive, by plate as upstream, flat."""
    plate, mjd, fiberid, run2d = row
    paths = [spec_lite_path(name, plate, mjd, fiberid) for name in ([run2d] if run2d else reductions)]
    yield from paths
    name = paths[0].rsplit("/", 1)[-1]
    yield f"{plate:04d}/{name}"
    yield name


def _read(path: str, data: bytes, row: Ids) -> RawSpectrum:
    try:
        raw = read_spec(data)
    except BadSpectrum as error:
        raise BadSpectrum(f"{path}: {error}") from error
    if not raw.belongs_to(*row[:3]):
        raise BadSpectrum(f"{path}: the file is of {raw.plate}-{raw.mjd}-{raw.fiberid}")
    return raw
