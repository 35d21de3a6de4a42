"""`make_batch`: a few spectra by their ids, as tensors, without a run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline import storage
from pipeline.archive.source import Source
from pipeline.spectra.normalize import Grid, normalize
from pipeline.spectra.quality import Quality
from pipeline.spectra.raw import BadSpectrum, RawSpectrum
from pipeline.storage import Place, place
from pipeline.surveys.registry import DEFAULT, get_survey
from pipeline.surveys.survey import Layout, Survey
from spender_core.instrument import get_instrument

Batch = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def make_batch(
    folder: Place,
    ids: Sequence[Sequence[int | str]],
    instrument: str | None = None,
    *,
    source: Place | None = None,
    survey: str = DEFAULT,
) -> Batch:
    """Read spectra from a folder or mirror; those it lacks are fetched into it.

    folder: release root in the archive's layout, or a folder of the survey's files, flat or by plate; a path or
    fsspec URL.
    ids: per spectrum, as the survey names it; SDSS: (plate, mjd, fiberid) or (plate, mjd, fiberid, run2d); without
    run2d the first reduction that has the file is taken.
    instrument: the wavelength grid, default the survey's first, "sdss". source: release root to fetch from, default the
    survey's archive.
    Returns spec (N, L), w (N, L), z (N,), ids (N, 3) int32, norm (N,), zerr (N,); float32 but for ids. spec
    is the flux divided by norm, w its inverse variance, 0 where masked (`normalize.normalize`); z is the
    file's own.
    Raises FileNotFoundError for a file that is nowhere, BadSpectrum for one that is of no use, naming it.
    """
    known = get_survey(survey)
    lookup = known.lookup
    if lookup.keys_of is None or lookup.numbers_of is None:
        raise ValueError(f"the survey {survey!r} does not say how its ids are written: plan a run instead of a batch")
    instrument = instrument or next(iter(known.instruments))
    if instrument not in known.instruments:
        raise ValueError(f"survey {survey!r} has no instrument {instrument!r}, only {', '.join(known.instruments)}")
    grid = Grid.of(get_instrument(instrument))
    numbers = [lookup.numbers_of(entry) for entry in ids]
    where = place(folder)
    present = [name for part in lookup.reduction_folders for name in storage.list_names(storage.join(where, part))]
    archive = place(source) if source is not None else known.archive
    spectra = [_load(known, where, lookup.keys_of(entry, ()), lookup.keys_of(entry, present), archive) for entry in ids]
    size = len(grid.wavelength)
    spec, w = np.empty((len(ids), size), np.float32), np.empty((len(ids), size), np.float32)
    norm, z, z_err = (np.empty(len(ids), np.float32) for _ in range(3))
    for i, (name, raw) in enumerate(spectra):
        z[i] = np.nan if raw.z is None else raw.z
        z_err[i] = np.nan if raw.z_err is None else raw.z_err
        try:
            spectrum = normalize(raw, float(z[i]), grid)
        except BadSpectrum as error:
            raise BadSpectrum(f"{name}: {error}") from error
        if spectrum.quality & Quality.UNUSABLE:
            raise BadSpectrum(f"{name}: {Quality.describe(spectrum.quality)}")
        spec[i], w[i], norm[i] = spectrum.flux, spectrum.ivar, spectrum.norm
    keys = np.array(numbers, np.int32).reshape(-1, len(numbers[0]) if numbers else 3)
    batch = [torch.from_numpy(array) for array in (spec, w, z, keys, norm, z_err)]
    return batch[0], batch[1], batch[2], batch[3], batch[4], batch[5]


def _load(
    survey: Survey, folder: str, keys: Sequence[str], candidates: Sequence[str], source: str
) -> tuple[str, RawSpectrum]:
    """Return the path of a spectrum in the folder, and its content; fetch it first where it is missing.

    keys: those that it may have, in the release's own reductions. candidates: these, and those in the folder's own.
    """
    layout = next(iter(survey.layouts.values()))
    places = [(layout.path(key), key) for key in candidates]
    places += [(path, candidates[0]) for path in survey.lookup.places(candidates[0])]
    for path, key in places:
        try:
            return path, _read(layout, path, storage.read_bytes(storage.join(folder, path)), key)
        except FileNotFoundError:
            continue
    paths = [(layout.path(key), key) for key in keys]
    if storage.protocol(folder) in ("http", "https"):
        raise FileNotFoundError(
            f"{paths[0][0]} is not in {folder}, and cannot be fetched: the folder cannot be written"
        )
    for path, key in paths:
        data = Source(source).fetch([path])[0]
        if isinstance(data, bytes):
            raw = _read(layout, path, data, key)  # before it is written: a file of no use is not kept
            storage.write_bytes(storage.join(folder, path), data)
            return path, raw
    raise FileNotFoundError(f"{paths[0][0]}: neither in {folder} nor in {source}")


def _read(layout: Layout, path: str, data: bytes, key: str) -> RawSpectrum:
    try:
        return layout.spectrum(layout.read(data), key)
    except BadSpectrum as error:
        raise type(error)(f"{path}: {error}") from error
