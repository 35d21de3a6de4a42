"""The stores of a run: made empty before any task could write to them, and refused when they are another plan's.

A run that grows has its stores described again, for all of its targets; whole shards keep their bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import xarray as xr

from pipeline import storage
from pipeline.errors import ConfigError, RefusedError
from pipeline.planning.model import ModelConfig
from pipeline.planning.plan import Plan
from pipeline.planning.schema import SPECTRA_VARIABLES, Variable
from pipeline.planning.stages import Kind
from pipeline.store import arrays as dataset
from pipeline.store import generations
from pipeline.store.arrays import METADATA, density_url, encodings_url, spectra_url
from pipeline.store.checkpoint import grid, inspect
from pipeline.store.ledger import Ledger
from pipeline.store.root import ledgers, read_plan
from pipeline.store.template import Encoding, density_template, encodings_template, spectra_template
from pipeline.surveys.survey import Survey

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Store:
    """One store of a run with its markers. model: None for the spectra."""

    label: str
    url: str
    ledger: Ledger
    survey: Survey
    model: ModelConfig | None = None

    @property
    def kind(self) -> Kind:
        """The stage and the model whose tasks fill it."""
        return self.ledger.stage, self.ledger.model

    @property
    def variables(self) -> dict[str, Variable]:
        """What it holds beside coordinates."""
        if self.model is None:
            return SPECTRA_VARIABLES
        return self.model.scored if self.ledger.stage == "density" else self.model.stored


def stores_of(root: str, plan: Plan) -> list[Store]:
    """Return the stores that a plan makes under a root, the spectra first, each behind what it is made of."""
    found = []
    for ledger in ledgers(root, plan):
        if ledger.model is None:
            found.append(Store("ingest", spectra_url(root), ledger, plan.survey))
            continue
        url = (density_url if ledger.stage == "density" else encodings_url)(root, ledger.model)
        label = f"{ledger.stage} {ledger.model}"
        found.append(Store(label, url, ledger, plan.survey, plan.model(ledger.model)))
    return found


def create(root: str, plan: Plan, kinds: Iterable[Kind]) -> None:
    """Make the empty stores of (stage, model) pairs that are not there yet, before any task could write to them.

    Raises ConfigError for a store of another plan, and for one that its ledger contradicts.
    """
    wanted = set(kinds)
    for store in stores_of(root, plan):
        if store.kind in wanted and not _stands(root, plan, store):
            if _marked_generations(store) and read_plan(root).generations != plan.generations:
                problem = "targets were added to the run meanwhile"
                raise RefusedError("plan.json", problem, "start the same command again")
            _write(root, plan, store)


def grow(root: str, plan: Plan, targets: pd.DataFrame) -> None:
    """Describe the stores that a run has for the targets of a plan's newest generation, before ROOT has that plan.

    Readers of the plan that is there see no more rows than before; its run would make the stores as they were.
    """
    for store in stores_of(root, plan):
        if store.ledger.store_created():
            # First, so that a run that finds the rest half done describes the store again.
            store.ledger.mark_store({**store.ledger.read_store(), "generations": _generations(plan)})
            _write(root, plan, store, targets)


def restore(root: str, plan: Plan, store: Store) -> None:
    """Write all of a store again but its data: what describes it, its coordinates, and the marker of all that.

    It is open afterwards, for `finalize` to close. Raises ConfigError for a store of another plan.
    """
    _refuse_another_plans(plan, store, _attributes(store))
    _write(root, plan, store)


def _write(root: str, plan: Plan, store: Store, targets: pd.DataFrame | None = None) -> None:
    logger.info("creating %s", store.url)
    made = dataset.create(store.url, *_template(root, plan, store, targets))
    store.ledger.mark_store({**made, "generations": _generations(plan)})


def _generations(plan: Plan) -> list[Any]:
    return [[each.n_spectra, each.targets_sha256] for each in plan.generations]


def _template(root: str, plan: Plan, store: Store, rows: pd.DataFrame | None) -> tuple[xr.Dataset, Encoding]:
    wavelength, model = grid(plan.config.instrument).wavelength, store.model
    if rows is None:
        rows = generations.rows_of(root, plan)
    if model is None:
        return spectra_template(plan, rows, wavelength)
    if store.ledger.stage == "density":
        return density_template(plan, model, rows)
    wave_rest = inspect(model.checkpoint, plan.config.instrument, model.sha256).wave_rest
    return encodings_template(plan, model, rows, wave_rest, wavelength)


def _attributes(store: Store) -> dict[str, Any] | None:
    """Read what a store says of itself; None where there is none, nothing where it cannot be read."""
    try:
        found = storage.read_json(storage.join(store.url, METADATA))["attributes"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, LookupError, TypeError):
        return {}
    return found if isinstance(found, dict) and "fingerprint" in found else {}


def _stands(root: str, plan: Plan, store: Store) -> bool:
    """Tell whether a store is complete; refuse one that markers and data disagree about."""
    # In this order: another run may make the store and do a chunk between two looks.
    done = store.ledger.done()
    created = store.ledger.store_created()
    attributes = _attributes(store)
    _refuse_another_plans(plan, store, attributes)
    if created and attributes:
        return made_for(plan, store)
    if created or done:
        remedy = f"to make them agree: spender-pipeline verify {root} --repair, then run"
        if created:
            problem = f"the ledger says that {store.url} was made, but it is not there or cannot be read"
        else:
            problem = f"{store.ledger.folder} says that chunks are done, but not that {store.url} was made"
        raise RefusedError("ROOT", problem, remedy)
    return False


def made_for(plan: Plan, store: Store) -> bool:
    """Tell whether a store was made for the plan's targets, not for those of another of its generations.

    A later one is that of an extension that was interrupted before it had written the plan. A damaged marker says
    nothing else. Raises ConfigError for a store of other targets.
    """
    made, wanted = _marked_generations(store), _generations(plan)
    if not made:
        return True
    same = min(len(made), len(wanted))
    if made[:same] != wanted[:same]:
        remedy = f"choose another ROOT, or remove {store.url} and {store.ledger.folder}"
        raise RefusedError("ROOT", f"{store.url} was made for other targets", remedy)
    return len(made) == len(wanted)


def _refuse_another_plans(plan: Plan, store: Store, attributes: Mapping[str, Any] | None) -> None:
    """Refuse a store with other settings or targets. Raises ConfigError. attributes: what the store says of itself."""
    if not attributes:
        return
    known = {sha256 for _, sha256 in _generations(plan) + _marked_generations(store)}
    if attributes["fingerprint"] != store.ledger.fingerprint or attributes.get("targets_sha256") not in known:
        remedy = f"choose another ROOT, or remove {store.url} and {store.ledger.folder}"
        raise ConfigError("ROOT", store.url, "no store of another plan", remedy)


def _marked_generations(store: Store) -> list[Any]:
    """Return the generations of targets that a store was made for, by its marker; none where it is damaged."""
    try:
        found = store.ledger.read_store().get("generations")
    except (FileNotFoundError, ConfigError):
        return []
    return found if isinstance(found, list) else []
