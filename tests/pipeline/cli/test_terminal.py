"""Control characters of other people's texts never reach a terminal."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline import storage
from pipeline.cli import main as cli
from pipeline.cli.terminal import printable_output
from pipeline.errors import printable
from pipeline.store.stores import stores_of

if TYPE_CHECKING:
    from tests.pipeline.conftest import MakeRun

EVIL = "\x1b]0;owned\x07\x1b[31m\x9b2J\u202e\x00\x08"


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    read = capsys.readouterr()
    return read.out + read.err


def is_clean(text: str) -> bool:
    return all(each.isprintable() or each in "\n\t" for each in text)


def test_control_characters_are_written_as_escapes() -> None:
    assert printable("a\x1b[31mb\x9b\u202e\ud800") == r"a\x1b[31mb\x9b\u202e\ud800"
    assert printable("lines\n\tand tabs, é, 星, 🔭") == "lines\n\tand tabs, é, 星, 🔭"


def test_a_stream_is_otherwise_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout
    with printable_output():
        assert sys.stdout.write("a\x1bb\n") == 4
        sys.stdout.writelines(["x\r", "y\n"])
        print("bar\rbar\x07", file=sys.stderr)
        assert sys.stdout.encoding == before.encoding
        assert not sys.stdout.isatty()
    assert sys.stdout is before
    read = capsys.readouterr()
    assert read.out == "a\\x1bb\nx\\ry\n"
    assert read.err == "bar\rbar\\x07\n"


def test_markers_of_others_do_not_write_to_a_terminal(
    tmp_path: Path, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_run(tmp_path, without=[("ingest", 3)])
    ledger = stores_of(str(tmp_path), plan)[0].ledger
    ledger.fail(3, {"reason": f"bad {EVIL}"})
    client = {"host": EVIL, "pid": 1, "command": EVIL, "version": "1", "doing": "chunks", "started": EVIL}
    storage.write_json(f"{tmp_path}/clients/x.json", {**client, "renewed": "2026-01-01T00:00:00+00:00"})
    assert cli.main(["status", str(tmp_path)]) == 0
    text = shown(capsys)
    assert r"bad \x1b]0;owned\x07" in text
    assert is_clean(text)
    storage.write_bytes(f"{ledger.folder}/\x1b[2J.json", b"")
    assert cli.main(["verify", str(tmp_path)]) == 3
    text = shown(capsys)
    assert r"\x1b[2J.json is stray" in text
    assert is_clean(text)


@pytest.mark.parametrize("change", [{"plan_version": EVIL}, {"shard": EVIL}, {EVIL: 1}])
def test_a_plan_of_others_does_not_write_to_a_terminal(
    tmp_path: Path, make_run: MakeRun, capsys: pytest.CaptureFixture[str], change: dict[str, object]
) -> None:
    make_run(tmp_path)
    file = tmp_path / "plan.json"
    values = json.loads(file.read_text())
    values["config"] |= change if EVIL in change else {}
    file.write_text(json.dumps({**values, **change}))
    assert cli.main(["status", str(tmp_path)]) == 1
    assert is_clean(shown(capsys))


def test_names_that_are_no_text_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Linux allows any bytes in a file's name; Python's own print fails on some of them."""
    name = "run-\udcff\x1b[31m"
    assert cli.main(["status", name]) == 1
    text = shown(capsys)
    assert is_clean(text)
    assert r"\udcff" in text
    with pytest.raises(SystemExit):
        cli.main(["status", "a", "\x1b[31m"])
    assert is_clean(shown(capsys))
