"""Counters of what tasks did, for Prometheus: Dask serves them at /metrics of every worker and of the scheduler.

    spender_worker_spectra_total{stage="encode",model="sdss_II"}      done by this process since it started
    spender_scheduler_spectra_total{stage="encode",model="sdss_II"}   done by the whole cluster
    spender_scheduler_run_chunks{state="pending"}                     of the run that goes on there, all stages together

A worker's are gone with the worker; the scheduler's outlive it, and also know the tasks that died with their worker.
As Dask's own, the two carry different names, so that a sum over all endpoints counts nothing twice.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cache
from typing import Any

from prometheus_client import Counter, Gauge

WORKER, SCHEDULER = "worker", "scheduler"


class _Counters:
    """The counters of one kind of process; labels: stage ("ingest", "encode") and model ("" for ingest)."""

    def __init__(self, where: str) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, ("stage", "model", *labels), namespace="spender", subsystem=where)

        self.failures = counter("failures", "Chunks that failed for good.")
        self.seconds = counter("phase_seconds", "Seconds of tasks by phase.", "phase")
        # by what a summary calls them
        self.sums = {
            "spectra": counter("spectra", "Spectra in finished chunks."),
            "usable": counter("usable_spectra", "Spectra in finished chunks that have latents, or can get them."),
            "fetched": counter("fetched_bytes", "Bytes read from the source."),
            "written": counter("written_bytes", "Bytes of the arrays written to the stores, before compression."),
            "requests": counter("requests", "Requests to the source."),
            "retries": counter("retries", "Requests to the source that repeat a failed one."),
        }
        self.chunks = counter("chunks", "Chunks done.")


# The first two tasks of a worker end in two threads, and a counter that is made twice is an error.
_making = threading.RLock()


@cache
def _made(where: str) -> _Counters:
    return _Counters(where)


def _counters(where: str) -> _Counters:
    with _making:
        return _made(where)


@cache
def _run_chunks() -> Gauge:
    text = "Chunks of the latest run by state: pending, done (by earlier runs, too), failed."
    return Gauge("run_chunks", text, ("state",), namespace="spender", subsystem=SCHEDULER)


def begin(total: int, done_before: int) -> None:
    """Say on a scheduler how many chunks a run has, and how many of them earlier runs have done."""
    for state, chunks in (("pending", total - done_before), ("done", done_before), ("failed", 0)):
        _run_chunks().labels(state).set(chunks)


def _end(state: str) -> None:
    _run_chunks().labels("pending").dec()
    _run_chunks().labels(state).inc()


def count(stage: str, model: str | None, summary: Mapping[str, Any], where: str = WORKER) -> None:
    """Count a chunk that is done. summary: of `stages`; a marker, which has no timings, counts as far as it goes."""
    labels = (stage, model or "")
    counters = _counters(where)
    counters.chunks.labels(*labels).inc()
    for key, counter in counters.sums.items():
        if key in summary:
            counter.labels(*labels).inc(summary[key])
    for phase, seconds in summary.get("seconds", {}).items():
        counters.seconds.labels(*labels, phase).inc(seconds)
    if where == SCHEDULER:
        _end("done")


def fail(stage: str, model: str | None, where: str = WORKER) -> None:
    """Count a chunk that failed for good."""
    _counters(where).failures.labels(stage, model or "").inc()
    if where == SCHEDULER:
        _end("failed")
