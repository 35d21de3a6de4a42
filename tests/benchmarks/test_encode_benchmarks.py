"""The benchmarks of the encoding, at tiny sizes: they run, and what they print can be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.running import lines_of

pytestmark = pytest.mark.long


def test_encode_compares_every_operation_with_upstreams() -> None:
    lines = lines_of("encode.py", "--batch", "3", "--rounds", "1")
    rows = {(line[:6].strip(), line[7:23].strip()): line[23:].split() for line in lines[2:12]}
    names = ["encode", "_forward", "decode", "transform", "training step"]
    assert list(rows) == [(condition, name) for condition in ("quiet", "busy") for name in names]
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


def test_around_tells_every_part_of_the_encode_stage(tmp_path: Path) -> None:
    lines = lines_of("around.py", "--spectra", "64", "--threads", "2", "--work", tmp_path)
    rows = [line.split() for line in lines]
    parts = {row[0]: float(row[1]) for row in rows if row[2:3] in (["ms"], ["ms,"])}
    assert list(parts) == ["read", "checksum", "load", "encode", "write", "mark", "rest", "all"]
    assert parts["all"] == pytest.approx(sum(parts.values()) - parts["all"], abs=0.01)
    assert float(rows[-2][1]) > 0


def test_simulate_fills_both_tables(tmp_path: Path) -> None:
    lines = lines_of("simulate.py", "--spectra", "64", "--rounds", "1", "--survey", "20000", "--work", tmp_path)
    real = [line for line in lines if "worker" in line and line.rstrip().endswith("%")]
    assert len(real) == 3
    assert len(lines[lines.index("") :]) > 5
    assert lines[-2].split()[-1].endswith("%")


def test_gpu_fills_its_tables_on_a_cpu_too(tmp_path: Path) -> None:
    lines = lines_of("gpu.py", "--device", "cpu", "--batch", "2", "--spectra", "40", "--work", tmp_path)
    rows = [line.split() for line in lines if line.split()[:1] in (["float32"], ["tf32"], ["bf16"])]
    assert [row[0] for row in rows] == ["float32", "tf32", "bf16"]
    assert all(float(value.rstrip("%")) > 0 for row in rows for value in row[1:])
    costs = [line for line in lines if line.startswith("sdss-galaxies,")]
    assert len(costs) == 4
