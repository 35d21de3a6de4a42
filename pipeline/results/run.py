"""Open a run to read it: its plan, targets, spectra and encodings, and the row of one target."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from pipeline.errors import ConfigError, RefusedError
from pipeline.planning.model import ModelConfig
from pipeline.planning.plan import FIRST_VERSION
from pipeline.spectra.quality import NO_SPECTRUM, Quality
from pipeline.storage import Place, place
from pipeline.store import generations
from pipeline.store.arrays import encodings_url, open_dataset, read_region, spectra_url
from pipeline.store.root import ingest_ledger, read_plan

if TYPE_CHECKING:
    import dask.dataframe as dd

    from pipeline.results.tables.table import ResultsTable, Where


def open_run(root: Place) -> Run:
    """Open a run by its root: a path or any fsspec URL. Raises ConfigError when there is none."""
    return Run(root)


class Run:
    """A run to read, finished or not. Datasets are lazy; chunks that are not done yet read as their fill.

    Raises ConfigError when there is no plan at the root.
    """

    def __init__(self, root: Place) -> None:
        self.root = place(root, "ROOT")
        self.plan = read_plan(self.root)

    def __repr__(self) -> str:
        models = ", ".join(model.name for model in self.plan.models) or "none"
        return f"<Run {self.root}: {self.plan.n_spectra} spectra, models: {models}>"

    def targets(self) -> pd.DataFrame:
        """Return the targets, one row per spectrum; the row number is the index along `spectrum`."""
        return self._targets.copy()

    def spectra(self) -> xr.Dataset:
        """Return the lazy spectra: flux, ivar, norm, quality, with the targets as coordinates."""
        return self._open(spectra_url(self.root), self.plan.ingest_fingerprint, "spectra")

    def model(self, name: str | None = None) -> ModelConfig:
        """Return a model of the plan. name: may be left out when there is one only. Raises ConfigError for others."""
        return self.plan.model(name if name is not None else self._only_model())

    def encodings(self, model: str | None = None) -> xr.Dataset:
        """Return the lazy encodings of a model with the flux, ivar and norm of their spectra.

        `quality` is the encodings' own, which holds the bits of the spectra too. model: may be left out when
        the run has one only. Raises ConfigError for a model that the run does not have or has not begun.
        """
        config = self.model(model)
        url = encodings_url(self.root, config.name)
        encodings = self._open(url, self.plan.encode_fingerprint(config.name), f"encodings of {config.name}")
        spectra = self.spectra()
        # Both stores carry the plan's fingerprints, which cover the sorted targets: their rows are the same targets.
        return encodings.assign({name: spectra[name] for name in ("flux", "ivar", "norm")})

    def table(
        self,
        model: str | None = None,
        *,
        columns: str | Sequence[str] | None = None,
        where: Where | None = None,
        lazy: bool = False,
    ) -> pd.DataFrame | dd.DataFrame:
        """Return the results of a model as one table, one row per spectrum; the index is its row in the run.

        model: may be left out when the run has one only. columns: names, default all: the targets' columns, norm, the
        latents l0, l1, ..., every other output without a wavelength, chi2_n (chi2 divided by n_pixels), quality as bits
        and as words, and sample (what the spectrum was to the training of the model: training, validation, neither or
        unknown). where: a condition on any of them, such as "z < 0.1 and quality == 0", or a mask of the run's rows.
        lazy: as a frame of dask, of some 130,000 rows per partition, instead of pandas. `attrs` of pandas' frame hold
        the units, where the data come from, and how to cite. Rows of chunks that are not done are left out;
        `attrs["rows_not_done"]` counts them. Raises ConfigError for columns that there are not, and for conditions that
        cannot be read.
        """
        found = self.results(model, columns=columns, where=where)
        return found.to_dask() if lazy else found.to_pandas()

    def results(
        self, model: str | None = None, *, columns: str | Sequence[str] | None = None, where: Where | None = None
    ) -> ResultsTable:
        """Return the table of `table` unread, to go through block by block."""
        from pipeline.results.tables.table import ResultsTable

        self.encodings(model)  # refuses what cannot be read
        config = self.model(model)
        names = tuple(columns.split(",")) if isinstance(columns, str) else None if columns is None else tuple(columns)
        if where is None or isinstance(where, str):
            return ResultsTable(self.root, self.plan, config, names, where)
        return ResultsTable(self.root, self.plan, config, names, None, np.asarray(where))

    def problems(self) -> pd.DataFrame:
        """Return the spectra whose files are missing or bad, one row each: row, target, quality in words, reason.

        Of the chunks that are ingested. Runs of earlier versions recorded no reasons.
        """
        ledger = ingest_ledger(self.root, self.plan)
        found: list[tuple[int, str, str]] = []
        for record in ledger.records(ledger.done()).values():
            if not any(record["quality"].get(bit.name) for bit in NO_SPECTRUM):
                continue
            reasons = record.get("reasons", {})
            start, stop = record["start"], record["stop"]
            quality = read_region(spectra_url(self.root), ["quality"], start, stop)["quality"]
            for row in np.flatnonzero(quality & np.uint32(NO_SPECTRUM)).tolist():
                words = Quality.describe(int(quality[row]) & int(NO_SPECTRUM))
                found.append(
                    (start + row, words, reasons.get(str(start + row), "not recorded by the version that made the run"))
                )
        found.sort()
        rows = [row for row, _, _ in found]
        return pd.DataFrame(
            {
                "row": rows,
                "target": self._targets["target"].iloc[rows].tolist(),
                "quality": [words for _, words, _ in found],
                "reason": [reason for _, _, reason in found],
            }
        )

    def find(self, target: str | int) -> int:
        """Return the row of a target: its key, such as "run2d/plate-mjd-fiberid", or another name.

        SDSS: "plate-mjd-fiberid" or its specobjid; DESI: its TARGETID, where one spectrum of the run has it.

        Raises ConfigError when no target is meant, or several are.
        """
        rows = self._rows(target)
        if len(rows) == 1:
            return int(rows[0])
        written = self.plan.survey.lookup.names
        if len(rows) == 0:
            example = self._targets["target"].iloc[0]
            remedy = f"the first target is {example}"
            raise ConfigError("id", target, f"a target of this run, written as {written}", remedy)
        keys = ", ".join(self._targets["target"].iloc[rows[:5]])
        raise ConfigError("id", target, "one target of this run", f"{len(rows)} match it, name one of them: {keys}")

    @cached_property
    def _targets(self) -> pd.DataFrame:
        return generations.rows_of(self.root, self.plan)

    def _rows(self, target: str | int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
        frame = self._targets
        text = str(target).strip()
        lookup = self.plan.survey.lookup
        numbers = lookup.columns_of(text)
        if numbers:
            mask = np.logical_and.reduce([frame[name] == value for name, value in numbers.items()])
        elif lookup.id_column is not None and text.isdecimal() and len(text) <= 20:
            ids = frame[lookup.id_column]
            # as one of its own type: numpy compares others by floats, which cut such numbers
            is_one = 0 < int(text) <= np.iinfo(ids.dtype).max
            mask = ids == ids.dtype.type(int(text)) if is_one else np.zeros(len(ids))
        else:
            mask = frame["target"] == text
        return np.flatnonzero(np.asarray(mask, dtype=bool))

    def _only_model(self) -> str:
        names = [model.name for model in self.plan.models]
        if len(names) != 1:
            raise ConfigError("model", None, f"one of the run's models: {', '.join(names) or 'none yet'}", "name one")
        return names[0]

    def _open(self, url: str, fingerprint: str, what: str) -> xr.Dataset:
        try:
            opened = open_dataset(url)
        except FileNotFoundError as error:
            raise RefusedError(what, f"there is no store {url} yet", "start the run first") from error
        if opened.attrs.get("fingerprint") != fingerprint:
            found = str(opened.attrs.get("fingerprint"))[:12]
            problem = f"{what} is of another plan (fingerprint {str(found)[:12]}, the plan has {fingerprint[:12]})"
            raise RefusedError("fingerprint", problem, "start the run again, or open another ROOT")
        if self.plan.plan_version > FIRST_VERSION and opened.attrs.get("targets_sha256") != self.plan.targets_sha256:
            from pipeline.store.stores import made_for, stores_of  # slow to import: brings torch

            (store,) = (each for each in stores_of(self.root, self.plan) if each.url == url)
            made_for(self.plan, store)  # refuses one of other targets
        if opened.sizes["spectrum"] < self.plan.n_spectra:
            raise RefusedError(what, f"{what} has no rows yet of the targets that were added", "start the run first")
        # More than the plan has: targets are being added, and are no part of the run yet.
        return opened.isel(spectrum=slice(self.plan.n_spectra))
