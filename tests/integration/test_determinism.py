"""The same run gives the same bytes: in one process, on workers, resumed, repeated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.cli import main as cli
from pipeline.compute import executor
from pipeline.compute.stages.tasks import Outcome
from pipeline.monitor import progress
from tests.running import file_hashes, markers, plan_by_command

Hashes = dict[str, str]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, mirror: Path) -> Hashes:
    """Run all real targets in one process, undisturbed."""
    root = tmp_path_factory.mktemp("reference") / "run"
    expected = plan_by_command(root, mirror)
    assert expected >= 2 * 8, "the contract is tested over at least 8 chunks"
    assert cli.main(["run", str(root), "--serial"]) == 0
    assert markers(root) == expected
    hashes = file_hashes(root)
    assert {name.split("/")[0] for name in hashes} == {"spectra.zarr", "encodings", "ledger"}
    return hashes


def test_a_second_root_has_the_same_bytes(tmp_path: Path, mirror: Path, reference: Hashes) -> None:
    plan_by_command(tmp_path / "run", mirror)
    assert cli.main(["run", str(tmp_path / "run"), "--serial"]) == 0
    assert file_hashes(tmp_path / "run") == reference


def test_two_workers_write_the_bytes_of_one_process(tmp_path: Path, mirror: Path, reference: Hashes) -> None:
    plan_by_command(tmp_path / "run", mirror)
    assert cli.main(["run", str(tmp_path / "run"), "--workers", "2"]) == 0
    assert file_hashes(tmp_path / "run") == reference


def test_the_callers_threads_change_nothing(tmp_path: Path, mirror: Path, reference: Hashes) -> None:
    plan_by_command(tmp_path / "run", mirror)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert cli.main(["run", str(tmp_path / "run"), "--serial"]) == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert file_hashes(tmp_path / "run") == reference


class Interrupting(progress.LogLines):
    """A user who presses Ctrl-C after some chunks."""

    left: int

    def advance(self, outcome: Outcome) -> None:
        super().advance(outcome)
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("chunks", [1, 7, 20])
def test_a_resumed_run_ends_with_the_same_bytes(
    tmp_path: Path, mirror: Path, reference: Hashes, monkeypatch: pytest.MonkeyPatch, chunks: int
) -> None:
    root = tmp_path / "run"
    expected = plan_by_command(root, mirror)

    def interrupting() -> executor.Progress:
        import sys

        made = Interrupting(sys.stderr)
        made.left = chunks
        return made

    with monkeypatch.context() as patched:
        patched.setattr("pipeline.monitor.progress.make_progress", interrupting)
        assert cli.main(["run", str(root), "--serial"]) == 130
    assert markers(root) == chunks < expected
    assert cli.main(["run", str(root), "--serial"]) == 0
    assert file_hashes(root) == reference


def test_one_stage_after_the_other_gives_the_bytes_of_run(tmp_path: Path, mirror: Path, reference: Hashes) -> None:
    root = str(tmp_path / "run")
    plan_by_command(tmp_path / "run", mirror)
    for command in (["ingest", root, "--serial"], ["encode", root, "--serial"], ["finalize", root]):
        assert cli.main(command) == 0
    assert file_hashes(tmp_path / "run") == reference


def test_repeating_a_finished_run_changes_nothing(tmp_path: Path, mirror: Path, reference: Hashes) -> None:
    root = tmp_path / "run"
    plan_by_command(root, mirror)
    for _ in range(2):
        assert cli.main(["run", str(root), "--serial"]) == 0
        assert file_hashes(root) == reference


def test_chunks_done_twice_are_written_with_the_same_bytes(tmp_path: Path, mirror: Path, reference: Hashes) -> None:
    root = tmp_path / "run"
    plan_by_command(root, mirror)
    assert cli.main(["run", str(root), "--serial"]) == 0
    for marker in (root / "ledger").glob("*/00000[1-3].json"):
        marker.unlink()
    assert cli.main(["run", str(root), "--workers", "2"]) == 0
    assert file_hashes(root) == reference
    assert cli.main(["verify", str(root)]) == 0
