"""Whatever the network and the server do, the same command ends with the objects of an undisturbed run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import clusters, faults, s3
from tests.bench import PATIENCE, RATE, RUNS, Bench, run, running, shown, wait_until

pytestmark = pytest.mark.long


@pytest.mark.parametrize("fault", faults.FAULTS)
def test_a_network_at_its_worst(bench: Bench, cluster: clusters.Cluster, fault: str) -> None:
    rate = RATE / 10 if fault == "hang" else RATE  # a hang lasts until the client's timeout, 15 s
    with bench.row(f"{fault}, {rate:.0%} of all requests") as row:
        for _ in range(RUNS):
            root = bench.new_root()
            before = bench.proxy.injected[fault]
            with bench.proxy.spoiling(fault, rate):
                assert run(root, "--scheduler", cluster.address) in (0, 1, 3)
            row.injected += bench.proxy.injected[fault] - before
            assert run(root, "--scheduler", cluster.address) == 0
            bench.check(row, root)


@pytest.mark.parametrize("refusal", faults.REFUSALS)
def test_a_server_that_refuses_us(
    bench: Bench, cluster: clusters.Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], refusal: str
) -> None:
    """Before the run, which is refused in one line; and in its middle, as when credentials run out."""
    with bench.row(f"{refusal}: every request, at first and midway") as row:
        for _ in range(RUNS):
            root = bench.new_root()
            before = bench.proxy.injected[refusal]
            capsys.readouterr()
            with bench.proxy.spoiling(refusal, 1.0):
                assert run(root, "--scheduler", cluster.address) == 1
            (line,) = capsys.readouterr().err.strip().splitlines()
            assert bench.proxy.endpoint in line
            assert s3.KEY[:4] in line
            assert not bench.marked(root)
            with running(root, tmp_path, "--scheduler", cluster.address) as process:
                wait_until(lambda: bench.marked(root) >= 3, process)  # noqa: B023
                with bench.proxy.spoiling(refusal, 1.0):
                    assert process.wait(PATIENCE) in (1, 3), shown(tmp_path)
            assert "Traceback" not in shown(tmp_path)
            row.injected += bench.proxy.injected[refusal] - before
            assert run(root, "--scheduler", cluster.address) == 0
            bench.check(row, root)


def test_a_bucket_that_may_only_be_read(
    bench: Bench, cluster: clusters.Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the client, which is refused in one line; and by workers, each of whose chunks fails by name."""
    with bench.row("a bucket that may only be read") as row:
        for number in range(RUNS):
            root = bench.new_root()
            capsys.readouterr()
            with s3.as_reader():
                assert run(root, "--scheduler", cluster.address) == 1
            (line,) = capsys.readouterr().err.strip().splitlines()
            assert "a place that can be written" in line
            with clusters.start(tmp_path / f"readers-{number}", **s3.READER) as readers:
                assert run(root, "--scheduler", readers.address) == 3
            row.injected += 1 + capsys.readouterr().err.count("PermissionError")
            assert not bench.marked(root)
            assert run(root, "--scheduler", cluster.address) == 0
            bench.check(row, root)
