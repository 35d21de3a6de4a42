"""A run in a bucket that grows while it is disturbed: it ends with the objects of an undisturbed one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import pipeline
from pipeline import storage
from pipeline.catalog import targets
from pipeline.cli import main as cli
from pipeline.compute.stages.tasks import Task
from tests import faults
from tests.bench import RATE, RUNS, SPECTRA, Bench, objects, run, serving, wait_until
from tests.late import PLACES, late_task

pytestmark = pytest.mark.long

BEFORE = 21  # of 32 targets, in chunks of 2: the last one is not full


@pytest.fixture(scope="module")
def more(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The table of all targets."""
    frame = targets.read_targets(str(mirror / "sdss" / "spectro" / "redux" / "specObj-dr17.fits")).iloc[:SPECTRA]
    table = str(tmp_path_factory.mktemp("more") / "targets.parquet")
    targets.write_targets(frame, table)
    return table


def extend(root: str, more: str) -> int:
    return cli.main(["plan", root, "--targets", more, "--extend"])


@pytest.fixture(scope="module")
def bench(mirror: Path, more: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with serving(tmp_path_factory.mktemp("growing"), mirror, BEFORE) as made:
        root = made.new_root()
        assert run(root, "--serial") == 0
        assert extend(root, more) == 0
        assert run(root, "--serial") == 0
        made.plan = pipeline.open_run(root).plan
        made.reference = objects(root)
        yield made


@pytest.fixture(scope="module")
def before(bench: Bench) -> dict[str, bytes]:
    """Give the objects of a run that is done, and has not grown yet."""
    root = bench.new_root()
    assert run(root, "--serial") == 0
    return objects(root)


@pytest.mark.parametrize("fault", ["reset-after", "reset-before", "error", "slow-down"])
def test_a_run_grows_through_a_bad_network(bench: Bench, before: dict[str, bytes], more: str, fault: str) -> None:
    with bench.row(f"{fault} while targets are added") as row:
        for _ in range(RUNS):
            root = bench.copy(before)
            injected = bench.proxy.injected[fault]
            with bench.proxy.spoiling(fault, max(RATE, 0.1)):
                while extend(root, more) != 0:
                    assert storage.exists(storage.join(root, "plan.json"))
                assert run(root, "--serial") in (0, 1, 3)
            row.injected += bench.proxy.injected[fault] - injected
            assert run(root, "--serial") == 0
            bench.check(row, root)


def has_put(proxy: faults.Proxy, first: int, number: int) -> bool:
    return sum(method == "PUT" for method, _ in proxy.requests[first:]) >= number


@pytest.mark.timeout(900)
def test_an_extension_is_killed(bench: Bench, before: dict[str, bytes], more: str) -> None:
    """SPENDER_FAULT_RUNS times as many steps; without end it would be each of them, as on a disk in test_growth."""
    command = [sys.executable, "-m", "pipeline", "plan", "--targets", more, "--extend"]
    root = bench.copy(before)
    with bench.proxy.counting() as counts:
        assert extend(root, more) == 0
    with bench.row("client killed while it adds targets") as row:
        for step in range(1, counts["PUT"], max(1, 24 // RUNS)):
            root = bench.copy(before)
            first = len(bench.proxy.requests)
            process = subprocess.Popen([*command, root], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            wait_until(partial(has_put, bench.proxy, first, step), process)
            process.kill()
            row.injected += process.wait() != 0
            storage.remove(storage.join(root, "clients"), recursive=True)  # stands for three minutes of waiting
            assert extend(root, more) == 0
            assert run(root, "--serial") == 0
            bench.check(row, root)


@pytest.mark.parametrize("place", PLACES)
def test_a_task_goes_on_after_the_run_has_grown(
    bench: Bench, before: dict[str, bytes], more: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench.row(f"an old task waits {place}") as row:
        for stage, model in (("ingest", None), ("encode", "random")):
            root = bench.copy(before)
            made = pipeline.open_run(root).plan
            last = made.shards()[-1]
            ledgers = {each.stage: each for each in bench.ledgers(root)}
            ledgers[stage].unmark(last.index)
            with late_task(root, made, Task(stage, model, last), place, monkeypatch) as late:
                assert run(root, "--serial") == 0
                assert extend(root, more) == 0
                assert run(root, "--serial") == 0
                assert late.go_on().reason is None
            monkeypatch.undo()
            row.injected += 1
            if run(root, "--serial") == 0:  # a chunk that the old task unmarked for others to see
                bench.check(row, root)
