"""What goes wrong around a run - foreign workers, a lost table, markers of nothing - costs no spectrum either."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import storage
from pipeline.cli import main as cli
from tests import clusters, environments
from tests.bench import PATIENCE, RUNS, Bench, run, running, shown, wait_until

pytestmark = pytest.mark.long


def killed_midway(bench: Bench, folder: Path) -> str:
    """Give a run that was killed after some chunks."""
    root = bench.new_root()
    with running(root, folder, "--workers", "1") as process:
        wait_until(lambda: bench.marked(root) >= 3, process)
        process.kill()
        process.wait()
    return root


def test_a_worker_without_the_package_that_comes_midway(bench: Bench, tmp_path: Path) -> None:
    bare = environments.command(environments.make(tmp_path / "venv", ["distributed"]))
    with bench.row("a worker of another environment comes midway") as row:
        for number in range(RUNS):
            root = bench.new_root()
            with (
                clusters.start(tmp_path / f"cluster-{number}", workers=1) as cluster,
                running(root, tmp_path, "--scheduler", cluster.address) as process,
            ):
                wait_until(lambda: bench.marked(root) >= 3, process)  # noqa: B023
                cluster.add_worker("--name", "bare", dask=bare)
                row.injected += 1
                assert process.wait(PATIENCE) == 0, shown(tmp_path)
            bench.check(row, root)


def test_targets_that_are_lost_midway_are_planned_again(bench: Bench, tmp_path: Path) -> None:
    with bench.row("targets.parquet lost midway, and restored") as row:
        for _ in range(RUNS):
            root = killed_midway(bench, tmp_path)
            storage.remove(storage.join(root, "targets.parquet"))
            row.injected += 1
            assert run(root, "--serial") == 1
            assert cli.main(["plan", root, "--targets", f"{bench.local}/targets.parquet"]) == 0
            assert run(root, "--serial") == 0
            bench.check(row, root)


def test_markers_of_nothing_are_taken_away(bench: Bench, tmp_path: Path) -> None:
    with bench.row("stray and nonsensical markers midway, and verify --repair") as row:
        for _ in range(RUNS):
            root = killed_midway(bench, tmp_path)
            (ingest, *_) = bench.ledgers(root)
            unfinished = next(i for i in range(16) if i not in ingest.done())
            for name, content in ((f"{unfinished:06}", b"not a marker"), ("000099", b"{}")):
                storage.write_bytes(storage.join(ingest.folder, f"{name}.json"), content)
                row.injected += 1
            cli.main(["verify", root, "--repair"])
            assert run(root, "--serial") == 0
            bench.check(row, root)
