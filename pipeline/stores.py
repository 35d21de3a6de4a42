"""The stores of a run: made empty before any task could write to them, and refused when they are another plan's."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import xarray as xr

from pipeline import dataset, runs, schema, targets, worker
from pipeline.config import ConfigError
from pipeline.ledger import Ledger
from pipeline.plan import Plan

logger = logging.getLogger(__name__)


def create(root: str, plan: Plan, kinds: Iterable[tuple[str, str | None]]) -> None:
    """Make the empty stores of (stage, model) pairs that are not there yet, before any task could write to them.

    Raises ConfigError for a store of another plan, and for one that its ledger contradicts.
    """
    for _, model_name in kinds:
        if model_name is None:
            url, ledger = dataset.spectra_url(root), runs.ingest_ledger(root, plan)
        else:
            url, ledger = dataset.encodings_url(root, model_name), runs.encode_ledger(root, plan, model_name)
        if _stands(url, ledger):
            continue
        logger.info("creating %s", url)
        ledger.mark_store({"checksums": dataset.create(url, *_template(root, plan, model_name))})


def _template(root: str, plan: Plan, model_name: str | None) -> tuple[xr.Dataset, schema.Encoding]:
    wavelength = worker.grid(plan.config.instrument).wavelength
    rows = targets.read_rows(runs.targets_url(root), 0, plan.n_spectra)
    if model_name is None:
        return schema.spectra_template(plan, rows, wavelength)
    config = plan.model(model_name)
    wave_rest = worker.inspect(config.checkpoint, plan.config.instrument, config.sha256).wave_rest
    return schema.encodings_template(plan, config, rows, wave_rest, wavelength)


def _stands(url: str, ledger: Ledger) -> bool:
    """Tell whether a stage's store is complete; refuse one that markers and data disagree about."""
    remedy = f"to make it anew, remove {url} and {ledger.folder}"
    try:
        fingerprint = dataset.open_dataset(url).attrs.get("fingerprint")
    except (FileNotFoundError, NotADirectoryError):
        fingerprint = None
    except (ValueError, KeyError):
        fingerprint = None if not ledger.store_created() else "unreadable"
    done = ledger.done()  # listed first: another run may make the store and do a chunk between the two looks
    if ledger.store_created():
        if fingerprint != ledger.fingerprint:
            raise ConfigError("ROOT", url, "the store that its ledger tells of", remedy)
        return True
    if done:
        raise ConfigError("ROOT", ledger.folder, "a ledger with its store.json", remedy)
    if fingerprint not in (None, ledger.fingerprint):
        raise ConfigError("ROOT", url, "no store of another plan", f"choose another ROOT, or remove {url}")
    return False
