from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.cli import main as cli
from pipeline.store.ledger import Ledger
from pipeline.store.root import ingest_ledger, read_plan
from tests.running import file_hashes

if TYPE_CHECKING:
    from tests.pipeline.conftest import MakeRun

Capture = pytest.CaptureFixture[str]


def verify(root: Path | str, capsys: Capture, *options: str) -> tuple[int, list[str], str]:
    """Give the exit status, the lines on stdout and the message on stderr."""
    capsys.readouterr()
    status = cli.main(["verify", str(root), *options])
    shown = capsys.readouterr()
    return status, shown.out.splitlines(), shown.err.rstrip("\n")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("template") / "run"


@pytest.fixture
def ledger(tmp_path: Path, template: Path, make_run: MakeRun) -> Ledger:
    """Make a sound run of two chunks without a model, once, and copy it; gives its ledger."""
    plan = read_plan(str(template)) if template.exists() else make_run(template, n=6, models=())
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return ingest_ledger(str(tmp_path), plan)


def damage(root: Path, index: int) -> None:
    file = root / "spectra.zarr" / "norm" / "c" / str(index)
    file.write_bytes(file.read_bytes()[:-1])


def test_a_sound_run_ends_with_0_and_one_line(tmp_path: Path, ledger: Ledger, capsys: Capture) -> None:
    for options in ((), ("--repair",)):
        found = verify(tmp_path, capsys, *options)
        assert found == (0, [f"verified: every chunk of {tmp_path} matches its marker"], "")


def test_root_is_named_as_it_was_given(
    tmp_path: Path, ledger: Ledger, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path.parent)
    assert f"every chunk of ./{tmp_path.name} matches" in verify(f"./{tmp_path.name}", capsys)[1][0]


def test_a_problem_ends_with_3_and_the_remedy(tmp_path: Path, ledger: Ledger, capsys: Capture) -> None:
    damage(tmp_path, 0)
    before = file_hashes(tmp_path)
    status, lines, message = verify(tmp_path, capsys)
    assert status == 3
    assert lines[0].startswith("ingest chunk 0")
    remedy = f"to repair: spender-pipeline verify {tmp_path} --repair, then spender-pipeline run {tmp_path}"
    assert message == f"error: 1 problem found in {tmp_path}; {remedy}"
    assert file_hashes(tmp_path) == before, "without --repair nothing is changed"


@pytest.mark.parametrize("options", [(), ("--repair",)])
def test_what_is_not_done_yet_is_not_called_damaged(
    tmp_path: Path, ledger: Ledger, capsys: Capture, options: tuple[str, ...]
) -> None:
    ledger.unmark(1)
    status, lines, message = verify(tmp_path, capsys, *options)
    assert (status, lines) == (3, ["ingest chunk 1: not done"])
    rest = f"what is done is undamaged; to do the rest: spender-pipeline run {tmp_path}"
    assert message == f"error: {tmp_path} is not finished; {rest}"


def test_every_problem_is_a_line_and_all_are_counted(tmp_path: Path, ledger: Ledger, capsys: Capture) -> None:
    damage(tmp_path, 0)
    ledger.unmark(1)
    status, lines, message = verify(tmp_path, capsys)
    assert status == 3
    assert [line.split(": ")[0] for line in lines] == ["ingest chunk 0", "ingest chunk 1"]
    assert message.startswith(f"error: 2 problems found in {tmp_path}; ")


def test_repair_removes_markers_says_how_many_and_still_ends_with_3(
    tmp_path: Path, ledger: Ledger, capsys: Capture
) -> None:
    damage(tmp_path, 0)
    status, lines, message = verify(tmp_path, capsys, "--repair")
    assert (status, len(lines)) == (3, 1)
    done_again = f"to do the rest: spender-pipeline run {tmp_path}"
    assert message == f"1 problem found in {tmp_path}; 1 chunk marked as not done; {done_again}"
    assert ledger.done() == {1}


def test_repair_says_which_descriptions_it_has_written(tmp_path: Path, ledger: Ledger, capsys: Capture) -> None:
    (tmp_path / "spectra.zarr" / "flux" / "zarr.json").unlink()
    status, lines, message = verify(tmp_path, capsys, "--repair")
    assert status == 3
    assert lines[0].startswith("ingest: the metadata of flux cannot be read")
    assert "; coordinates and metadata rewritten: ingest; to do the rest: spender-pipeline run" in message
    assert ledger.done() == {0, 1}


def test_a_root_without_a_plan_ends_with_1(tmp_path: Path, capsys: Capture) -> None:
    status, lines, message = verify(tmp_path, capsys)
    assert (status, lines) == (1, [])
    assert message.startswith(f"error: ROOT is '{tmp_path}', expected a folder that holds a plan.json")


def test_an_unknown_option_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["verify", str(tmp_path), "--mend"])
    assert ended.value.code == 2
