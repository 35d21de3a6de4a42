"""Several runs of one model as one: their encodings, tables and targets behind each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from pipeline.errors import ConfigError, RefusedError, redacted
from pipeline.planning.density import SCORES
from pipeline.planning.model import ModelConfig
from pipeline.results.names import Names, is_one, listed
from pipeline.results.run import Run, open_run
from pipeline.storage import Place

if TYPE_CHECKING:
    from pipeline.surveys.survey import Entry


def open_runs(roots: Sequence[Place], model: str | None = None) -> Runs:
    """Open several runs as one, such as those of two releases, that were encoded by the same model.

    roots: folders of the runs. model: its name in the first run; may be left out when that has one only. In the others
    it may have another name: its checkpoint decides. Raises ConfigError for runs of other models, surveys, wavelength
    grids or versions, whose numbers cannot be compared, and for targets that two runs have.

    >>> open_runs(["s3://bucket/dr16", "s3://bucket/dr17"], "sdss_II").table()
    """
    if isinstance(roots, str) or not roots:
        raise ConfigError("roots", roots, "a list of runs", "one run is opened by open_run")
    return Runs([open_run(root) for root in roots], model)


class Runs:
    """Runs of one model, one behind the other in the order given; a row counts through all of them.

    See `open_runs` for what is refused.
    """

    def __init__(self, runs: Sequence[Run], model: str | None = None) -> None:
        self.runs = tuple(runs)
        first = self.runs[0].model(model)
        self.models = tuple(_same_model(self.runs[0], first, run) for run in self.runs)
        twice = self.targets()["target"].duplicated()
        if twice.any():
            key = self.targets()["target"][twice].iloc[0]
            problem = f"{int(twice.sum())} targets are in more than one run, such as {key}"
            raise RefusedError("roots", problem, "leave one of the runs out: their spectra would count twice")

    def __repr__(self) -> str:
        return f"<Runs of {self.models[0].name}: {len(self.runs)} runs, {sum(self._sizes)} spectra>"

    def targets(self) -> pd.DataFrame:
        """Return the targets of all runs, with the columns that all of them have, and `run`, the number of the run."""
        return self._targets.copy()

    def encodings(self, *, observed_only: bool = False) -> xr.Dataset:
        """Return the lazy encodings of all runs, as `Run.encodings`; the coordinate `run` is the number of the run.

        Without scores where their densities are not one: these cannot be compared.
        """
        pieces = [
            run.encodings(model.name, observed_only=observed_only)
            for run, model in zip(self.runs, self.models, strict=True)
        ]
        shared = set.intersection(*(set(map(str, piece.variables)) for piece in pieces)) - self._incomparable
        parts = []
        for number, piece in enumerate(pieces):
            own = piece.drop_vars([name for name in piece.variables if str(name) not in shared])
            place = ("spectrum", np.full(own.sizes["spectrum"], number, np.int32), {"long_name": "number of the run"})
            # one name for one model
            parts.append(own.assign_coords(run=place, model=pieces[0].coords["model"]))
        joined = xr.concat(
            parts,
            "spectrum",
            data_vars="minimal",
            coords="minimal",
            compat="override",
            join="exact",
            combine_attrs="drop_conflicts",
        )
        return joined.assign_attrs(model=self.models[0].name)

    def table(
        self, *, columns: str | Sequence[str] | None = None, where: str | None = None, good: bool = False
    ) -> pd.DataFrame:
        """Return the results of all runs as one table, as `Run.table`, with the column `run`.

        columns: default those that all runs have, but for scores of different densities, which cannot be compared.
        where: a condition. good: only the recommended selection.
        """
        asked = columns.split(",") if isinstance(columns, str) else list(columns or ())
        for name in asked:
            if name.strip() in self._incomparable:
                raise ConfigError("columns", name, "no scores: the runs have different densities", "plan one for all")
        parts: list[pd.DataFrame] = []
        for number, (run, model) in enumerate(zip(self.runs, self.models, strict=True)):
            part = run.results(model.name, columns=columns, where=where, good=good).to_pandas()
            part.index = part.index + self._starts[number]
            parts.append(part.assign(run=np.int32(number)))
        whole = pd.concat(parts, join="inner")
        said = [part.attrs for part in parts]
        whole = whole.drop(columns=[name for name in whole.columns if name in self._incomparable])
        whole.attrs = {key: text for key, text in said[0].items() if all(each.get(key) == text for each in said)}
        return whole

    def find(self, ids: Entry | Iterable[Entry]) -> int | NDArray[np.intp]:
        """Return the rows of spectra by their names, counted through all runs; see `Run.find`."""
        names = Names(self._targets, self.runs[0].plan.survey.lookup)
        return names.row(ids) if is_one(ids) else names.rows(listed(ids))  # type: ignore[arg-type]

    def good(self) -> NDArray[np.bool_]:
        """Return which spectra of all runs belong to the recommended selection; see `Run.good`."""
        parts = [run.good(model.name) for run, model in zip(self.runs, self.models, strict=True)]
        return np.concatenate(parts)

    @property
    def _incomparable(self) -> frozenset[str]:
        """Variables that are not of one kind in all runs."""
        return frozenset(SCORES if len({model.density_sha256 for model in self.models}) > 1 else ())

    @property
    def _sizes(self) -> list[int]:
        return [run.plan.n_spectra for run in self.runs]

    @property
    def _starts(self) -> list[int]:
        return [0, *np.cumsum(self._sizes)[:-1].tolist()]

    @cached_property
    def _targets(self) -> pd.DataFrame:
        parts = [run.targets().assign(run=np.int32(number)) for number, run in enumerate(self.runs)]
        return pd.concat(parts, join="inner", ignore_index=True)


_VERSIONS = ("schema", "normalization", "encoding")
_REMEDY = "their numbers cannot be compared: open them one by one"


def _same_model(first: Run, wanted: ModelConfig, run: Run) -> ModelConfig:
    """Return the model of a run that is the wanted one of the first run. Raises ConfigError."""
    here, there = redacted(run.root), redacted(first.root)
    own = _facts(first)
    for key, value in _facts(run).items():
        if value != own[key]:
            raise RefusedError("roots", f"{here} has {key} {value}, {there} has {own[key]}", _REMEDY)
    same = [model for model in run.plan.models if model.sha256 == wanted.sha256]
    if not same:
        checkpoint = f"the checkpoint of {wanted.name} (SHA-256 {str(wanted.sha256)[:12]}...)"
        raise RefusedError("roots", f"{here} has no encodings by {checkpoint}", _REMEDY)
    found = next((model for model in same if model.name == wanted.name), same[0])
    if found.precision != wanted.precision:
        problem = f"{here} has {found.name} in {found.precision}, {there} has it in {wanted.precision}"
        raise RefusedError("roots", problem, _REMEDY)
    return found


def _facts(run: Run) -> dict[str, object]:
    """Return what must be the same for the numbers of two runs to be comparable, but for the model."""
    versions = {f"{each} version": getattr(run.plan, f"{each}_version") for each in _VERSIONS}
    return {"survey": run.plan.survey.name, "instrument": run.plan.config.instrument, **versions}
