"""Whatever is killed, and whenever: the same command ends with the stores of an undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from pipeline.cli import main as cli
from tests.running import file_hashes, markers, plan_by_command

PATIENCE = 120.0


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, mirror: Path) -> dict[str, str]:
    root = tmp_path_factory.mktemp("reference") / "run"
    plan_by_command(root, mirror)
    assert cli.main(["run", str(root), "--serial"]) == 0
    return file_hashes(root)


@pytest.fixture
def chance() -> random.Random:
    """Give random moments; a failing test prints the seed that repeats them."""
    seed = int(os.environ.get("SPENDER_TEST_SEED", time.time_ns() % 1_000_000))
    print(f"SPENDER_TEST_SEED={seed}")
    return random.Random(seed)


@contextmanager
def running(root: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Start the command in a process of its own."""
    command = [sys.executable, "-m", "pipeline", "run", str(root), *options]
    # Its output goes to a file: workers of a killed client may hold a pipe open.
    with open(root.parent / "output.txt", "a+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, text=True)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def wait_for_markers(root: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while markers(root) < count and process.poll() is None:
        assert time.monotonic() < deadline, f"{markers(root)} of {count} markers after {PATIENCE} s"
        time.sleep(0.01)


def worker_processes(client: int) -> list[psutil.Process]:
    """Find the processes that a client's local cluster works in."""
    try:
        children = psutil.Process(client).children()
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    except psutil.NoSuchProcess:
        return []


def output_of(root: Path) -> str:
    return (root.parent / "output.txt").read_text()


@pytest.mark.parametrize("options", [("--serial",), ("--workers", "2")], ids=["serial", "workers"])
def test_a_client_killed_at_random_moments_resumes_to_the_same_stores(
    tmp_path: Path, mirror: Path, reference: dict[str, str], chance: random.Random, options: tuple[str, ...]
) -> None:
    root = tmp_path / "run"
    total = plan_by_command(root, mirror)
    for _ in range(2):
        with running(root, *options) as process:
            wait_for_markers(root, min(markers(root) + chance.randrange(total // 3), total - 1), process)
            time.sleep(chance.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
    with running(root, *options) as process:
        assert process.wait(PATIENCE) == 0, output_of(root)
    assert markers(root) == total
    assert file_hashes(root) == reference


def test_a_client_killed_while_it_makes_the_stores_resumes(
    tmp_path: Path, mirror: Path, reference: dict[str, str], chance: random.Random
) -> None:
    root = tmp_path / "run"
    plan_by_command(root, mirror)
    with running(root, "--serial") as process:
        while not (root / "spectra.zarr").exists() and process.poll() is None:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
    with running(root, "--serial") as process:
        assert process.wait(PATIENCE) == 0, output_of(root)
    assert file_hashes(root) == reference


def test_workers_killed_at_random_moments_are_replaced_within_the_run(
    tmp_path: Path, mirror: Path, reference: dict[str, str], chance: random.Random
) -> None:
    root = tmp_path / "run"
    total = plan_by_command(root, mirror)
    killed = 0
    with running(root, "--workers", "2") as process:
        for moment in sorted(chance.sample(range(total - 6), 2)):
            wait_for_markers(root, moment, process)
            victims = worker_processes(process.pid)
            if victims:
                chance.choice(victims).kill()
                killed += 1
        assert process.wait(PATIENCE) == 0, output_of(root)
    assert killed, "no worker was found to kill"
    assert file_hashes(root) == reference
    assert "Traceback" not in output_of(root)
    assert "distributed" not in output_of(root)
