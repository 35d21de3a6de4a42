from __future__ import annotations

from prometheus_client import REGISTRY, generate_latest

from pipeline import metrics


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"spender_{name}_total", {"stage": "encode", "model": "m-test", **labels}) or 0.0


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
