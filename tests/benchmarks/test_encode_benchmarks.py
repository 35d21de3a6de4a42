"""The benchmarks of the encoding, at tiny sizes: they run, and what they print can be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.running import lines_of

pytestmark = pytest.mark.long


def test_encode_compares_every_operation_with_upstreams() -> None:
    lines = lines_of("encode.py", "--batch", "3", "--rounds", "1")
    rows = {line[:16].strip(): line[16:].split() for line in lines[2:7]}
    assert list(rows) == ["encode", "_forward", "decode", "transform", "training step"]
    for name, (batch, *_, difference) in rows.items():
        assert batch == "3"
        assert float(difference) < 1e-5, name


def test_end_to_end_accounts_for_every_spectrum(tmp_path: Path) -> None:
    lines = lines_of(
        *("end_to_end.py", "--spectra", "48", "--upstream", "8", "--workers", "1"),
        *("--work", tmp_path, "--data", tmp_path / "nowhere"),
    )
    (row,) = [line.split() for line in lines if line.startswith("spender-pipeline run")]
    assert row[2] == "48"
    assert row[4] == "0"
    assert any("MiB of" in line for line in lines)


def test_scale_runs_every_task_of_a_plan_of_many_chunks(tmp_path: Path) -> None:
    lines = lines_of("scale.py", "--spectra", "50000", "--workers", "1", "--work", tmp_path)
    assert "50000 spectra in 16 chunks: 32 tasks on 1 workers" in lines


def test_precision_tells_that_float32_is_the_reference(shared_data: Path) -> None:
    lines = lines_of("precision.py", "--data", shared_data)
    found = {tuple(line.split()[:2]): line.split()[2:] for line in lines[2:-1]}
    assert len(found) == 9
    assert 0 < float(found["bf16", "latents"][1]) < 0.05
