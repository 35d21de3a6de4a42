"""The stores of a run: made empty before any task could write to them, and refused when they are another plan's."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import xarray as xr

from pipeline import storage
from pipeline.catalog import targets
from pipeline.errors import ConfigError, RefusedError
from pipeline.planning.model import ModelConfig
from pipeline.planning.plan import Kind, Plan
from pipeline.store import arrays as dataset
from pipeline.store.arrays import METADATA, encodings_url, spectra_url
from pipeline.store.checkpoint import grid, inspect
from pipeline.store.ledger import Ledger
from pipeline.store.root import encode_ledger, ingest_ledger, targets_url
from pipeline.store.template import Encoding, encodings_template, spectra_template

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Store:
    """One store of a run with its markers. model: None for the spectra."""

    label: str
    url: str
    ledger: Ledger
    model: ModelConfig | None = None

    @property
    def kind(self) -> Kind:
        """The stage and the model whose tasks fill it."""
        return self.ledger.stage, self.ledger.model


def stores_of(root: str, plan: Plan) -> list[Store]:
    """Return the stores that a plan makes under a root, the spectra first."""
    found = [Store("ingest", spectra_url(root), ingest_ledger(root, plan))]
    for model in plan.models:
        ledger = encode_ledger(root, plan, model.name)
        found.append(Store(f"encode {model.name}", encodings_url(root, model.name), ledger, model))
    return found


def create(root: str, plan: Plan, kinds: Iterable[Kind]) -> None:
    """Make the empty stores of (stage, model) pairs that are not there yet, before any task could write to them.

    Raises ConfigError for a store of another plan, and for one that its ledger contradicts.
    """
    wanted = set(kinds)
    for store in stores_of(root, plan):
        if store.kind in wanted and not _stands(root, store):
            _write(root, plan, store)


def restore(root: str, plan: Plan, store: Store) -> None:
    """Write all of a store again but its data: what describes it, its coordinates, and the marker of all that.

    It is open afterwards, for `finalize` to close. Raises ConfigError for a store of another plan.
    """
    _refuse_another_plans(store, _fingerprint(store))
    _write(root, plan, store)


def _write(root: str, plan: Plan, store: Store) -> None:
    logger.info("creating %s", store.url)
    store.ledger.mark_store(dataset.create(store.url, *_template(root, plan, store.model)))


def _template(root: str, plan: Plan, model: ModelConfig | None) -> tuple[xr.Dataset, Encoding]:
    wavelength = grid(plan.config.instrument).wavelength
    rows = targets.read_rows(targets_url(root), 0, plan.n_spectra, plan.survey)
    if model is None:
        return spectra_template(plan, rows, wavelength)
    wave_rest = inspect(model.checkpoint, plan.config.instrument, model.sha256).wave_rest
    return encodings_template(plan, model, rows, wave_rest, wavelength)


_UNREADABLE = "unreadable"


def _fingerprint(store: Store) -> str | None:
    """Read the fingerprint of the store; None for nothing, "unreadable" for what is no store's description."""
    try:
        found = storage.read_json(storage.join(store.url, METADATA))["attributes"]["fingerprint"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, LookupError, TypeError):
        return _UNREADABLE
    return str(found)


def _stands(root: str, store: Store) -> bool:
    """Tell whether a store is complete; refuse one that markers and data disagree about."""
    # In this order: another run may make the store and do a chunk between two looks.
    done = store.ledger.done()
    created = store.ledger.store_created()
    fingerprint = _fingerprint(store)
    if created and fingerprint == store.ledger.fingerprint:
        return True
    _refuse_another_plans(store, fingerprint)
    if created or done:
        remedy = f"to make them agree: spender-pipeline verify {root} --repair, then run"
        if created:
            problem = f"the ledger says that {store.url} was made, but it is not there or cannot be read"
        else:
            problem = f"{store.ledger.folder} says that chunks are done, but not that {store.url} was made"
        raise RefusedError("ROOT", problem, remedy)
    return False


def _refuse_another_plans(store: Store, fingerprint: str | None) -> None:
    if fingerprint not in (None, _UNREADABLE, store.ledger.fingerprint):
        remedy = f"choose another ROOT, or remove {store.url} and {store.ledger.folder}"
        raise ConfigError("ROOT", store.url, "no store of another plan", remedy)
