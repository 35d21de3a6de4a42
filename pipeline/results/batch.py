"""`make_batch`: a few spectra by their ids, as tensors, without a run."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline import storage
from pipeline.archive.answers import BadBody, opened
from pipeline.archive.reach import require_answer
from pipeline.archive.reader import Archive
from pipeline.archive.source import Content, Source
from pipeline.errors import ConfigError, redacted
from pipeline.spectra.normalize import Grid, normalize
from pipeline.spectra.quality import Quality
from pipeline.spectra.raw import BadSpectrum, NoSpectrum, RawSpectrum
from pipeline.storage import Place, place
from pipeline.surveys.registry import DEFAULT, get_survey
from pipeline.surveys.survey import Entry, Layout, Survey
from spender_core.instrument import get_instrument

Batch = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def make_batch(
    folder: Place,
    ids: Entry | Sequence[Entry],
    instrument: str | None = None,
    *,
    source: Place | None = None,
    survey: str = DEFAULT,
) -> Batch:
    """Read spectra from a folder or mirror; those it lacks are fetched into it.

    folder: release root in the archive's layout, or a folder of the survey's files, flat or by plate; a path or
    fsspec URL.
    ids: of each spectrum, what `Run.find` takes, or numbers, as lists, tuples or rows of an array; SDSS: (plate, mjd,
    fiberid) or (plate, mjd, fiberid, run2d), SDSS-V: (field, mjd, catalogid, run2d), of one spectrum also without the
    outer list. Without run2d the first reduction that has the file is taken. DESI: a key, or (survey, program, healpix,
    targetid).
    instrument: the wavelength grid, default the survey's first, "sdss". source: release root to fetch from, default the
    survey's archive.
    Returns spec (N, L), w (N, L), z (N,), ids (N, 3), norm (N,), zerr (N,); float32, ids int32 or, with catalogids,
    int64; DESI: pixel and TARGETID, (N, 2). spec
    is the flux divided by norm, w its inverse variance, 0 where masked (`normalize.normalize`); z is the file's own,
    NaN where it has none: models that take the redshift have no latents then.
    What is fetched is said on stderr. Raises FileNotFoundError for a file that is nowhere, BadSpectrum for one that is
    of no use, naming it, ConfigError for ids that are none, and for a source that does not answer.
    """
    known = get_survey(survey)
    storage.publish(known.public)
    lookup = known.lookup
    if lookup.keys_of is None or lookup.numbers_of is None:
        raise ValueError(f"the survey {survey!r} does not say how its ids are written: plan a run instead of a batch")
    instrument = instrument or next(iter(known.instruments))
    if instrument not in known.instruments:
        raise ValueError(f"survey {survey!r} has no instrument {instrument!r}, only {', '.join(known.instruments)}")
    grid = Grid.of(get_instrument(instrument))
    entries = _entries(ids)
    numbers = [lookup.numbers_of(entry) for entry in entries]
    where = place(folder)
    present = [name for part in lookup.reduction_folders for name in storage.list_names(storage.join(where, part))]
    release = _Release(known, where, place(source) if source is not None else known.archive)
    spectra = [release.load(lookup.keys_of(entry, ()), lookup.keys_of(entry, present)) for entry in entries]
    size = len(grid.wavelength)
    spec, w = (np.empty((len(entries), size), np.float32) for _ in range(2))
    norm, z, z_err = (np.empty(len(entries), np.float32) for _ in range(3))
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
    dtype = np.int32 if all(number < 2**31 for each in numbers for number in each) else np.int64
    keys = np.array(numbers, dtype).reshape(-1, len(numbers[0]) if numbers else 3)
    batch = [torch.from_numpy(array) for array in (spec, w, z, keys, norm, z_err)]
    return batch[0], batch[1], batch[2], batch[3], batch[4], batch[5]


def _entries(ids: Entry | Sequence[Entry]) -> list[Entry]:
    """Return the spectra that are asked for as a list, also where one is given alone."""
    if isinstance(ids, str | bytes | int | float | np.number):
        return [ids]
    if isinstance(ids, pd.DataFrame):
        raise ConfigError("ids", "a table", "ids of spectra", "give its keys, such as table['target']")
    entries: list[Entry] = list(ids)  # type: ignore[arg-type]
    # three or four numbers too small to be ids of their own, or the last of them a reduction, are one spectrum's
    alone = len(entries) in (3, 4) and all(_is_small(each) for each in entries[:2])
    return [tuple(entries)] if alone else entries


def _is_small(entry: object) -> bool:
    try:
        return float(entry) < 2**31  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


@dataclass
class _Release:
    """Where a batch's files come from: a folder, and the source of those that it lacks. answers: it has answered."""

    survey: Survey
    folder: str
    source: str
    answers: bool = False

    @property
    def layout(self) -> Layout:
        return next(iter(self.survey.layouts.values()))

    def load(self, keys: Sequence[str], candidates: Sequence[str]) -> tuple[str, RawSpectrum]:
        """Return the path of a spectrum in the folder, and its content with the redshift, as `_load`."""
        path, raw, key = self._load(keys, candidates)
        if raw.z is None and self.layout.redshifts is not None:
            z, z_err = self.redshift(key, self.layout.redshifts.path(key))
            raw = replace(raw, z=z, z_err=z_err)
        return path, raw

    def _load(self, keys: Sequence[str], candidates: Sequence[str]) -> tuple[str, RawSpectrum, str]:
        """Return the path of a spectrum in the folder, its content and key; fetch it first where it is missing.

        keys: those that it may have, in the release's own reductions. candidates: these, and those in the folder's own.
        """
        for path, key in self._places(candidates):
            try:
                return path, _read(self.layout, path, storage.read_bytes(storage.join(self.folder, path)), key), key
            except FileNotFoundError:
                continue
        paths = [(self.layout.path(key), key) for key in keys]
        if storage.protocol(self.folder) in ("http", "https"):
            raise FileNotFoundError(
                f"{paths[0][0]} is not in {self.folder}, and cannot be fetched: the folder cannot be written"
            )
        for path, key in paths:
            data = self._fetched(path)
            if isinstance(data, bytes):
                raw = _read(self.layout, path, data, key)  # before it is written: a file of no use is not kept
                storage.write_bytes(storage.join(self.folder, path), data)
                return path, raw, key
        raise FileNotFoundError(f"{paths[0][0]}: neither in {self.folder} nor in {self.source}")

    def _places(self, candidates: Sequence[str]) -> Iterator[tuple[str, str]]:
        for key in candidates:
            path = self.layout.path(key)
            yield path, key
            yield from ((other, key) for other in dict.fromkeys(at(path) for at in self.layout.places))
        for key in candidates:
            yield from ((path, key) for path in self.survey.lookup.places(key))

    def redshift(self, key: str, path: str) -> tuple[float, float]:
        """Return z and its error from the file beside a spectrum's, fetched where the folder has none; NaN of none."""
        (found,) = Archive(Source(self.folder), self.layout).redshifts([key])
        if isinstance(found, NoSpectrum):
            source = self._asked(path)
            (found,) = Archive(replace(source, cache=self.folder), self.layout).redshifts([key])
        return (math.nan, math.nan) if isinstance(found, NoSpectrum) else found

    def _fetched(self, path: str) -> Content:
        return self._asked(path).fetch([path])[0]

    def _asked(self, path: str) -> Source:
        """Return the source, to be asked for a file; this is said. Raises ConfigError for one that does not answer."""
        source = Source(self.source, places=self.layout.places, parts=self.layout.parts)
        print(f"fetching {path} from {redacted(self.source)}", file=sys.stderr, flush=True)
        if not self.answers:
            remedy = "check the network, or copy the file into the folder"
            require_answer("source", source, path, remedy)
            self.answers = True
        return source


def _read(layout: Layout, path: str, data: bytes, key: str) -> RawSpectrum:
    try:
        return layout.spectrum(layout.read(opened(data)), key)
    except BadSpectrum as error:
        raise type(error)(f"{path}: {error}") from error
    except BadBody as error:
        raise BadSpectrum(f"{path}: {error}") from error
