"""The plan, the targets and the stores of a run, to read."""

from __future__ import annotations

from functools import cached_property

import pandas as pd
import xarray as xr

from pipeline import storage
from pipeline.errors import RefusedError
from pipeline.planning.density import SCORES
from pipeline.planning.model import ModelConfig
from pipeline.planning.plan import FIRST_VERSION
from pipeline.results.coverage import observed_only as masked
from pipeline.storage import Place, place
from pipeline.store import generations
from pipeline.store.arrays import METADATA, density_url, encodings_url, open_dataset, spectra_url
from pipeline.store.root import read_plan


class RunData:
    """A run to read, finished or not. Datasets are lazy; chunks that are not done yet read as their fill.

    Raises ConfigError when there is no plan at the root.
    """

    def __init__(self, root: Place) -> None:
        self.root = place(root, "ROOT")
        self.plan = read_plan(self.root)

    def targets(self) -> pd.DataFrame:
        """Return the targets, one row per spectrum; the row number is the index along `spectrum`."""
        return self._targets.copy()

    def spectra(self) -> xr.Dataset:
        """Return the lazy spectra: flux, ivar, norm, quality, with the targets as coordinates."""
        return self._open(spectra_url(self.root), self.plan.ingest_fingerprint, "spectra")

    def model(self, name: str | None = None) -> ModelConfig:
        """Return a model of the plan. name: may be left out when there is one only. Raises ConfigError for others."""
        return self.plan.model(name if name is not None else self._only_model())

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the plan's models, for `encodings`, `table` and the others."""
        return tuple(model.name for model in self.plan.models)

    def encodings(self, model: str | None = None, *, observed_only: bool = False) -> xr.Dataset:
        """Return the lazy encodings of a model with the flux, ivar and norm of their spectra.

        Also its scores, where it has a density and that stage has begun. `quality` is the encodings' own, which holds
        the bits of the spectra too. model: may be left out when the run has one only. observed_only: the restframe is
        NaN outside of the bins that the spectrum covers, where it is the model's alone. Raises ConfigError for a model
        that the run does not have or has not begun.
        """
        config = self.model(model)
        url = encodings_url(self.root, config.name)
        encodings = self._open(url, self.plan.encode_fingerprint(config.name), f"encodings of {config.name}")
        if observed_only:
            encodings = masked(encodings, config.name)
        spectra = self.spectra()
        # The stores carry the plan's fingerprints, which cover the sorted targets: their rows are the same targets.
        return encodings.assign({name: spectra[name] for name in ("flux", "ivar", "norm")} | self._scores(config))

    def _scores(self, config: ModelConfig) -> dict[str, xr.DataArray]:
        """Return what a model's density says of its latents; nothing where there is no such store yet."""
        url = density_url(self.root, config.name)
        if config.density is None or not storage.exists(storage.join(url, METADATA)):
            return {}
        opened = self._open(url, self.plan.density_fingerprint(config.name), f"density of {config.name}")
        return {name: opened[name] for name in config.scored if name in SCORES}

    @cached_property
    def _targets(self) -> pd.DataFrame:
        return generations.rows_of(self.root, self.plan)

    def _only_model(self) -> str:
        names = [model.name for model in self.plan.models]
        if len(names) != 1:
            has = f"the run has several models: {', '.join(names)}" if names else "the run has no model yet"
            raise RefusedError("model", has, "name one (--model)" if names else "plan one")
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
