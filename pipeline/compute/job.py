"""What a run has to do: the plan minus the markers, from one listing of each ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.compute.stages.tasks import Task
from pipeline.errors import RefusedError
from pipeline.planning.plan import Kind, Plan
from pipeline.store.ledger import Ledger
from pipeline.store.root import encode_ledger, ingest_ledger


@dataclass(frozen=True)
class Job:
    """A run's pending tasks, a chunk's ingest before its encodings, and the ledgers that know of them.

    ledgers: of the stages and models asked for. ingested: the chunks whose spectra are there. stale: markers to be
    removed before anything is done, of encodings whose spectra are to be ingested again, whatever was asked for.
    """

    root: str
    plan: Plan
    ledgers: dict[Kind, Ledger]
    tasks: list[Task]
    ingested: frozenset[int]
    stale: list[tuple[Ledger, int]]

    @property
    def total(self) -> int:
        """Chunks of all its stages, done or not."""
        return len(self.plan.shards()) * len(self.ledgers)

    @property
    def done_before(self) -> int:
        """Those among them that are done."""
        return self.total - len(self.tasks)

    @property
    def kinds(self) -> set[Kind]:
        """What kinds of tasks there are to do; none when all is done."""
        return {task.kind for task in self.tasks}

    def fingerprint(self, task: Task) -> str:
        """Return the fingerprint under which a task is done."""
        return self.ledgers[task.kind].fingerprint


def pending(root: str, plan: Plan, stage_names: Sequence[str], models: Sequence[str]) -> Job:
    """List what has no marker, of some stages ("ingest", "encode") and models.

    Spectra that are ingested again are encoded again, so that the two stores always agree. Raises
    ConfigError for encodings asked for where no spectra are ingested.
    """
    ingest: Kind = ("ingest", None)
    ledgers: dict[Kind, Ledger] = {ingest: ingest_ledger(root, plan)}
    ledgers |= {("encode", model.name): encode_ledger(root, plan, model.name) for model in plan.models}
    asked = [kind for kind in ledgers if kind[0] in stage_names and (kind == ingest or kind[1] in models)]
    # List encodings first: if another run works on this ROOT, the spectra of each listed encoding are listed, too.
    marked = {kind: ledgers[kind].done() for kind in reversed(ledgers)}
    ingested = marked[ingest]
    # Where nothing is ingested, encodings stay as they are until something is.
    done = {kind: indices & ingested if ingest in asked else indices for kind, indices in marked.items()}
    tasks = [Task(*kind, shard) for shard in plan.shards() for kind in asked if shard.index not in done[kind]]
    if tasks and ingest not in asked and not ingested:
        raise RefusedError("ROOT", f"the spectra of {root} are not ingested", "run ingest first")
    stale = [(ledgers[kind], index) for kind, indices in marked.items() for index in sorted(indices - done[kind])]
    return Job(root, plan, {kind: ledgers[kind] for kind in asked}, tasks, frozenset(ingested), stale)
