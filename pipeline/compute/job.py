"""What a run has to do: the plan minus the markers, from one listing of each ledger."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pipeline.compute.stages.tasks import Task
from pipeline.errors import RefusedError
from pipeline.planning.plan import Plan
from pipeline.planning.stages import Kind, source_of
from pipeline.spectra.quality import Quality
from pipeline.store.ledger import Ledger
from pipeline.store.root import ledgers


@dataclass(frozen=True)
class Job:
    """A run's pending tasks, a chunk's ingest before its encodings, these before densities; and what knows of them.

    ledgers: of the stages and models asked for. ingested: the chunks whose spectra are there. again: markers to be
    removed before anything is done, in this order, of chunks that are done again; stale: likewise, of encodings whose
    spectra are to be ingested again, and of densities of such encodings, whatever was asked for, each with the ledger
    that knows whether what it is made of is there after all. chunks: how many of the plan's it looks at.
    """

    root: str
    plan: Plan
    ledgers: dict[Kind, Ledger]
    tasks: list[Task]
    ingested: frozenset[int]
    again: list[tuple[Ledger, int]]
    stale: list[tuple[Ledger, Ledger, int]]
    chunks: int

    @property
    def total(self) -> int:
        """Chunks of all its stages, done or not."""
        return self.chunks * len(self.ledgers)

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


def pending(
    root: str,
    plan: Plan,
    stage_names: Sequence[str],
    models: Sequence[str],
    only: Collection[int] | None = None,
    retry: Quality = Quality.GOOD,
) -> Job:
    """List what has no marker, of some stages (`planning.stages.STAGES`) and models.

    only: indices of the chunks to look at; None: all. retry: chunks with such spectra are done again, whatever their
    markers say. Spectra that are ingested again are encoded again, so that the two stores always agree. Raises
    ConfigError for encodings asked for where no spectra are ingested, and for markers that are damaged.
    """
    ingest: Kind = ("ingest", None)
    all_ledgers: dict[Kind, Ledger] = {(each.stage, each.model): each for each in ledgers(root, plan)}
    asked = [kind for kind in all_ledgers if kind[0] in stage_names and (kind == ingest or kind[1] in models)]
    shards = [shard for shard in plan.shards() if only is None or shard.index in only]
    chunks = {shard.index for shard in shards}
    # List encodings first: if another run works on this ROOT, the spectra of each listed encoding are listed, too.
    marked = {kind: all_ledgers[kind].done() for kind in reversed(all_ledgers)}
    again = _with_spectra_of(retry, all_ledgers[ingest], marked[ingest] & chunks) if retry else set()
    ingested = marked[ingest] - again
    marked[ingest] = ingested
    done: dict[Kind, set[int]] = {}
    for kind in all_ledgers:
        # What is not done again leaves what was made of it as it is.
        source = source_of(kind)
        done[kind] = marked[kind] & done[source] if source and _is_asked(source, asked) else marked[kind]
    tasks = [Task(*kind, shard) for shard in shards for kind in asked if shard.index not in done[kind]]
    if tasks and ingest not in asked and not ingested:
        raise RefusedError("ROOT", f"the spectra of {root} are not ingested", "run ingest first")
    return Job(
        root,
        plan,
        ledgers={kind: all_ledgers[kind] for kind in asked},
        tasks=tasks,
        ingested=frozenset(ingested),
        # encodings never outlive the spectra that they were made from
        again=[(all_ledgers[kind], index) for index in sorted(again) for kind in marked],
        stale=[
            (all_ledgers[kind], all_ledgers[source], index)
            for kind in all_ledgers
            if (source := source_of(kind)) is not None
            for index in sorted((marked[kind] - done[kind]) & chunks - again)
        ],
        chunks=len(shards),
    )


def _is_asked(kind: Kind, asked: Collection[Kind]) -> bool:
    """Tell whether what a kind does, or what that is made of, is to be done."""
    source = source_of(kind)
    return kind in asked or (source is not None and _is_asked(source, asked))


def _with_spectra_of(bits: Quality, ingest: Ledger, done: Collection[int]) -> set[int]:
    """Return the chunks that hold spectra with one of some quality bits."""
    names = [bit.name for bit in bits]
    records = ingest.records(done)
    return {index for index, record in records.items() if any(record["quality"].get(name) for name in names)}
