"""A run's folder, ROOT: where its plan, its targets and the ledgers of its stages are."""

from __future__ import annotations

from pipeline import storage
from pipeline.config import SurveyConfig
from pipeline.errors import ConfigError, RefusedError, require_place
from pipeline.planning.plan import Plan
from pipeline.store.ledger import Ledger
from pipeline.surveys.registry import get_survey


def read_plan(root: str) -> Plan:
    """Read the plan of a run, and reach storage as it says. Raises ConfigError when there is none at ROOT.

    Also for a ROOT that holds a user's name or a password: it is written into logs, and the names of Dask's tasks.
    """
    require_place("ROOT", root, with_query=False)
    try:
        text = storage.read_bytes(storage.join(root, "plan.json"))
    except (FileNotFoundError, NotADirectoryError) as error:
        remedy = "make one with: spender-pipeline plan ROOT --targets T --source URL --model M"
        raise ConfigError("ROOT", root, "a folder that holds a plan.json", remedy) from error
    plan = Plan.from_json(text)
    use_storage(root, plan.config)
    return plan


def use_storage(root: str, config: SurveyConfig) -> None:
    """Reach storage as a configuration says, from now on. Raises ConfigError for a [storage] table that covers ROOT."""
    for table in config.storage:
        if table.covers(root):
            key = f"storage.{table.prefix}"
            remedy = "set AWS_ENDPOINT_URL, AWS_PROFILE, ... instead: the table is in plan.json, and so in ROOT itself"
            raise RefusedError(key, f"the table {key} covers ROOT, {root}", remedy)
    storage.configure(config.storage)
    storage.publish(get_survey(config.survey).public)


def targets_url(root: str) -> str:
    """Return where a run keeps its targets table."""
    return storage.join(root, "targets.parquet")


def basis_url(root: str, checkpoint_sha256: str) -> str:
    """Return where a run keeps the templates and the prior of a checkpoint, named by its SHA-256."""
    return storage.join(root, "basis", f"{checkpoint_sha256[:16]}.npz")


def index_url(root: str, model: str) -> str:
    """Return where a run on a disk keeps the index of a model's latents, once somebody has looked for neighbors."""
    return storage.join(root, "neighbors", f"{model}.latents")


def density_file_url(root: str, sha256: str) -> str:
    """Return where a run keeps a density, named by the SHA-256 of its file."""
    return storage.join(root, "density", f"{sha256[:16]}.pt")


def ingest_ledger(root: str, plan: Plan) -> Ledger:
    """Return the markers of the ingest stage."""
    return Ledger(root, "ingest", plan.ingest_fingerprint, None, plan.grown(), len(plan.shards()))


def encode_ledger(root: str, plan: Plan, model: str) -> Ledger:
    """Return the markers of the encode stage of a model."""
    return Ledger(root, "encode", plan.encode_fingerprint(model), model, plan.grown(), len(plan.shards()))


def density_ledger(root: str, plan: Plan, model: str) -> Ledger:
    """Return the markers of the density stage of a model."""
    return Ledger(root, "density", plan.density_fingerprint(model), model, plan.grown(), len(plan.shards()))


def ledgers(root: str, plan: Plan) -> list[Ledger]:
    """Return the markers of all stages: ingest, then of each model the encodings and, where it has one, the density."""
    found = [ingest_ledger(root, plan)]
    for model in plan.models:
        found.append(encode_ledger(root, plan, model.name))
        found += [density_ledger(root, plan, model.name)] if model.density is not None else []
    return found
