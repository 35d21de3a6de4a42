"""Open a run to read it: its plan, targets, spectra and encodings, and the row of one target."""

from __future__ import annotations

import re
from functools import cached_property

import numpy as np
import pandas as pd
import xarray as xr

from pipeline import dataset, storage, targets
from pipeline.config import ConfigError
from pipeline.plan import Plan

_PLATE_MJD_FIBER = re.compile(r"(\d{1,10})-(\d{1,10})-(\d{1,19})\Z")


def open_run(url: str) -> Run:
    """Open a run by its root: a path or any fsspec URL. Raises ConfigError when there is none."""
    return Run(url)


class Run:
    """A run to read, finished or not. Datasets are lazy; chunks that are not done yet read as their fill.

    Raises ConfigError when there is no plan at the root.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        try:
            self.plan = Plan.from_json(storage.read_bytes(storage.join(root, "plan.json")))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ConfigError("ROOT", root, "the root of a run, with a plan.json", "check the path") from error

    def __repr__(self) -> str:
        models = ", ".join(model.name for model in self.plan.models) or "none"
        return f"<Run {self.root}: {self.plan.n_spectra} spectra, models: {models}>"

    def targets(self) -> pd.DataFrame:
        """Return the targets, one row per spectrum; the row number is the index along `spectrum`."""
        return self._targets.copy()

    def spectra(self) -> xr.Dataset:
        """Return the lazy spectra: flux, ivar, norm, quality, with the targets as coordinates."""
        return self._open(dataset.spectra_url(self.root), self.plan.ingest_fingerprint, "spectra")

    def encodings(self, model: str | None = None) -> xr.Dataset:
        """Return the lazy encodings of a model with the flux, ivar and norm of their spectra.

        `quality` is the encodings' own, which holds the bits of the spectra too. model: may be left out when
        the run has one only. Raises ConfigError for a model that the run does not have or has not begun.
        """
        config = self.plan.model(model if model is not None else self._only_model())
        url = dataset.encodings_url(self.root, config.name)
        encodings = self._open(url, self.plan.encode_fingerprint(config.name), f"encodings of {config.name}")
        spectra = self.spectra()
        # Both stores carry the plan's fingerprints, which cover the sorted targets: their rows are the same targets.
        return encodings.assign({name: spectra[name] for name in ("flux", "ivar", "norm")})

    def find(self, target: str | int) -> int:
        """Return the row of a target: "plate-mjd-fiberid", its key "run2d/plate-mjd-fiberid", or its specobjid.

        Raises ConfigError when no target is meant, or several are.
        """
        rows = self._rows(target)
        if len(rows) == 1:
            return int(rows[0])
        expected = "a target of this run as PLATE-MJD-FIBER, RUN2D/PLATE-MJD-FIBER or specobjid"
        if len(rows) == 0:
            example = self._targets["target"].iloc[0]
            raise ConfigError("id", target, expected, f"the first target is {example}")
        keys = ", ".join(self._targets["target"].iloc[rows[:5]])
        raise ConfigError("id", target, expected, f"it means {len(rows)} targets: {keys}")

    @cached_property
    def _targets(self) -> pd.DataFrame:
        return targets.read_rows(storage.join(self.root, "targets.parquet"), 0, self.plan.n_spectra)

    def _rows(self, target: str | int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
        frame = self._targets
        text = str(target).strip()
        numbers = _PLATE_MJD_FIBER.match(text)
        if numbers:
            plate, mjd, fiberid = (int(number) for number in numbers.groups())
            mask = (frame["plate"] == plate) & (frame["mjd"] == mjd) & (frame["fiberid"] == fiberid)
        elif text.isdecimal() and len(text) <= 20 and 0 < int(text) < 2**64:
            mask = frame["specobjid"] == np.uint64(int(text))
        else:
            mask = frame["target"] == text
        return np.flatnonzero(mask.to_numpy(dtype=bool))

    def _only_model(self) -> str:
        names = [model.name for model in self.plan.models]
        if len(names) != 1:
            raise ConfigError("model", None, f"one of the run's models: {', '.join(names) or 'none yet'}", "name one")
        return names[0]

    @staticmethod
    def _open(url: str, fingerprint: str, what: str) -> xr.Dataset:
        try:
            opened = dataset.open_dataset(url)
        except FileNotFoundError as error:
            raise ConfigError(what, url, "a store", "start the run first") from error
        if opened.attrs.get("fingerprint") != fingerprint:
            found = str(opened.attrs.get("fingerprint"))[:12]
            raise ConfigError(f"fingerprint of {what}", found, f"{fingerprint[:12]}, the plan's", "run the plan anew")
        return opened
