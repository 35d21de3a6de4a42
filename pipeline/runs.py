"""A run's folder, ROOT: where its plan, its targets and the ledgers of its stages are."""

from __future__ import annotations

from pipeline import storage
from pipeline.config import ConfigError
from pipeline.ledger import Ledger
from pipeline.plan import Plan


def read_plan(root: str) -> Plan:
    """Read the plan of a run. Raises ConfigError when there is none at ROOT."""
    try:
        text = storage.read_bytes(storage.join(root, "plan.json"))
    except (FileNotFoundError, NotADirectoryError) as error:
        remedy = "make one with: spender-pipeline plan ROOT --targets T --source URL --model M"
        raise ConfigError("ROOT", root, "a folder that holds a plan.json", remedy) from error
    return Plan.from_json(text)


def targets_url(root: str) -> str:
    """Return where a run keeps its targets table."""
    return storage.join(root, "targets.parquet")


def ingest_ledger(root: str, plan: Plan) -> Ledger:
    """Return the markers of the ingest stage."""
    return Ledger(root, "ingest", plan.ingest_fingerprint)


def encode_ledger(root: str, plan: Plan, model: str) -> Ledger:
    """Return the markers of the encode stage of a model."""
    return Ledger(root, "encode", plan.encode_fingerprint(model), model)
