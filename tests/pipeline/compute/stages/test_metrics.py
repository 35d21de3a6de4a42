from __future__ import annotations

import subprocess
import sys

from prometheus_client import REGISTRY, generate_latest

from pipeline.compute.stages import metrics


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"spender_{name}_total", {"stage": "encode", "model": "m-test", **labels}) or 0.0


def run_chunks() -> dict[str, float | None]:
    states = ("pending", "done", "failed")
    return {state: REGISTRY.get_sample_value("spender_scheduler_run_chunks", {"state": state}) for state in states}


def test_a_summary_is_counted_by_stage_model_and_phase() -> None:
    summary = {"spectra": 5, "usable": 4, "written": 100, "retries": 2, "seconds": {"read": 0.5, "encode": 1.0}}
    metrics.count("encode", "m-test", summary)
    metrics.count("encode", "m-test", summary)
    assert value("worker_chunks") == 2
    assert (value("worker_spectra"), value("worker_usable_spectra")) == (10, 8)
    assert (value("worker_written_bytes"), value("worker_retries")) == (200, 4)
    assert value("worker_phase_seconds", phase="encode") == 2
    assert value("scheduler_chunks") == 0, "the scheduler's have names of their own"
    assert b'spender_worker_spectra_total{model="m-test",stage="encode"} 10.0' in generate_latest()


def test_a_marker_counts_as_far_as_it_goes() -> None:
    before = value("scheduler_spectra"), value("scheduler_chunks")
    metrics.count("encode", "m-test", {"spectra": 3, "usable": 3}, metrics.SCHEDULER)
    assert (value("scheduler_spectra"), value("scheduler_chunks")) == (before[0] + 3, before[1] + 1)


def test_failures_are_counted() -> None:
    before = value("worker_failures")
    metrics.fail("encode", "m-test")
    assert value("worker_failures") == before + 1


def test_a_scheduler_knows_how_much_of_a_run_is_left() -> None:
    metrics.begin(total=10, done_before=4)
    assert run_chunks() == {"pending": 6, "done": 4, "failed": 0}
    metrics.count("encode", "m-test", {"spectra": 3}, metrics.SCHEDULER)
    metrics.fail("encode", "m-test", metrics.SCHEDULER)
    assert run_chunks() == {"pending": 4, "done": 5, "failed": 1}
    metrics.count("encode", "m-test", {"spectra": 3})
    metrics.fail("encode", "m-test")
    assert run_chunks() == {"pending": 4, "done": 5, "failed": 1}, "what a worker does, the scheduler hears of once"
    metrics.begin(total=5, done_before=5)
    assert run_chunks() == {"pending": 0, "done": 5, "failed": 0}, "the next run has chunks of its own"


def test_the_first_tasks_of_a_worker_may_end_at_once() -> None:
    code = """
import sys, threading
from pipeline.compute.stages import metrics

sys.setswitchinterval(1e-6)
start = threading.Barrier(8)
failed = []

def end():
    start.wait()
    try:
        metrics.count("ingest", None, {"spectra": 1})
    except Exception as error:
        failed.append(error)

threads = [threading.Thread(target=end) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
sys.exit(repr(failed) if failed else 0)
"""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
