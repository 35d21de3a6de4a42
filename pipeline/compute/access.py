"""Whether an archive gives what a run asks of it, judged once: a run that lands mostly nothing does not go on.

A verdict is about the first spectra of a run, by its markers: those of earlier clients count, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.compute.job import Job, pending
from pipeline.compute.stages.tasks import Outcome
from pipeline.config import require_choice
from pipeline.errors import RefusedError
from pipeline.planning.plan import Plan
from pipeline.spectra.quality import NO_SPECTRUM, Quality
from pipeline.store.root import ingest_ledger

JUDGED_AT = 500
"""Spectra that are ingested when the archive is judged; a smaller run is judged as a whole."""

FEWEST = 20
"""Spectra of the smallest run that is judged."""

WITHOUT = Quality.NO_FILE | Quality.BAD_FILE

_TAKEN, _REFUSED = "taken", "refused"


class Access:
    """The count of a run's ingested spectra, and of those without a file of use, until the archive is judged.

    accept_missing: whether to go on whatever is found.
    """

    def __init__(self, job: Job, accept_missing: bool) -> None:
        self._root, self._plan, self._accept = job.root, job.plan, accept_missing
        self._ledger = ingest_ledger(job.root, job.plan)
        self._enough = min(JUDGED_AT, job.plan.n_spectra)
        self._spectra = self._without = 0
        asked = ("ingest", None) in job.ledgers and bool(job.tasks) and self._enough >= FEWEST
        self._is_open = asked and self._ledger.access() != _TAKEN
        if self._is_open:
            for record in self._ledger.records(job.ingested).values():
                self._count(record)

    def judge(self) -> None:
        """Judge the archive, if it was not yet and enough spectra are there. Raises RefusedError."""
        if not self._is_open or self._spectra < self._enough:
            return
        self._is_open = False
        if self._accept or 2 * self._without <= self._spectra:
            self._ledger.keep_access(_TAKEN)
            return
        reason = _most_common(self._ledger.records(self._ledger.done()).values())
        self._ledger.keep_access(_REFUSED)
        for ledger, index in pending(self._root, self._plan, ("ingest",), (), retry=WITHOUT).again:
            ledger.unmark(index)
        problem = f"{self._without} of {self._spectra} spectra have no file in {self._plan.config.source}, or a bad one"
        reductions = self._plan.survey.reductions
        further = f", its release and the {reductions.column} of the targets" if reductions else " and its release"
        remedy = f"check the source{further}; the next run asks for these files again"
        raise RefusedError("source", problem + reason, f"{remedy}, and with --accept-missing it goes on without them")

    def reopen(self) -> None:
        """Forget a refusal, once the chunks that it was about are to be done again."""
        if self._ledger.access() == _REFUSED:
            self._ledger.keep_access("")

    def add(self, outcome: Outcome) -> None:
        """Count a task that has ended, and judge. Raises RefusedError."""
        if self._is_open and outcome.task.model is None and outcome.record is not None:
            self._count(outcome.record)
            self.judge()

    def _count(self, record: Mapping[str, Any]) -> None:
        self._spectra += record["spectra"]
        self._without += sum(record["quality"].get(bit.name, 0) for bit in WITHOUT)


def to_retry(root: str, plan: Plan) -> Quality:
    """Return the bits of spectra whose chunks a refused run may have left done: tasks may have ended after it."""
    return WITHOUT if ingest_ledger(root, plan).access() == _REFUSED else Quality.GOOD


def bits_of(names: Sequence[str]) -> Quality:
    """Return quality bits by their names in lower case. Raises ConfigError for one that no other try may remove."""
    known = {(bit.name or "").lower(): bit for bit in NO_SPECTRUM}
    asked = {name.strip().lower() for name in names}
    for name in sorted(asked):
        require_choice("retry", name, tuple(known))
    return Quality(sum(known[name] for name in asked))


def _most_common(records: Iterable[Mapping[str, Any]]) -> str:
    reasons = Counter(reason for record in records for reason in record.get("reasons", {}).values())
    return f" (most often: {reasons.most_common(1)[0][0]})" if reasons else ""
