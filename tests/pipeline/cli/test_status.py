from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.cli import main as cli
from pipeline.cli.status import print_status
from pipeline.monitor.status import StageStatus
from pipeline.spectra.quality import Quality
from pipeline.store.root import encode_ledger, ingest_ledger

if TYPE_CHECKING:
    from tests.pipeline.conftest import MakeRun

Capture = pytest.CaptureFixture[str]
HEADER = "stage   model  chunks  done  pending  failed  spectra  with latents  no remarks"


def stage(**changes: Any) -> StageStatus:
    values: dict[str, Any] = {
        "stage": "ingest",
        "model": None,
        "chunks": 3,
        "done": 1,
        "pending": 2,
        "failed": {},
        "spectra": 4,
        "good": 2,
        "usable": 3,
        "quality": {},
        "rate": None,
        "eta": None,
    }
    return StageStatus(**{**values, **changes})


def printed(capsys: Capture, *stages: StageStatus) -> list[str]:
    capsys.readouterr()
    print_status(stages)
    return capsys.readouterr().out.splitlines()


def test_the_table_has_a_row_for_every_stage(tmp_path: Path, make_run: MakeRun, capsys: Capture) -> None:
    make_run(tmp_path, n=6, without=[("encode toy", 1)])
    assert cli.main(["status", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [
        HEADER,
        "ingest              2     2        0       0        6                         6",
        "encode  toy         2     1        1       0        4             4           4",
    ]
    assert shown.err == ""


def test_failed_chunks_are_told_with_their_reasons_until_they_are_done(
    tmp_path: Path, make_run: MakeRun, capsys: Capture
) -> None:
    plan = make_run(tmp_path, n=6, without=[("encode toy", 1)])
    ingest_ledger(str(tmp_path), plan).fail(0, {"reason": "it was done later"})
    encode_ledger(str(tmp_path), plan, "toy").fail(1, {"reason": "no memory"})
    assert cli.main(["status", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[3:] == ["failed: encode toy 000001: no memory"]


def test_status_for_programs_is_json_with_root_as_it_was_given(
    tmp_path: Path, make_run: MakeRun, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_run(tmp_path, n=6, without=[("ingest", 1)])
    ingest_ledger(str(tmp_path), plan).fail(1, {"reason": "no answer"})
    monkeypatch.chdir(tmp_path.parent)
    assert cli.main(["status", f"{tmp_path.name}/", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["root"], shown["spectra"]) == (f"{tmp_path.name}/", 6)
    ingest, encode = shown["stages"]
    assert (ingest["stage"], ingest["model"], ingest["done"], ingest["pending"]) == ("ingest", None, 1, 1)
    assert ingest["failed"] == {"1": "no answer"}
    assert (encode["stage"], encode["model"], encode["done"]) == ("encode", "toy", 2)


def test_a_stage_that_goes_on_tells_its_rate_and_the_time_left(
    tmp_path: Path, make_run: MakeRun, capsys: Capture
) -> None:
    plan = make_run(tmp_path, n=12, models=(), without=[("ingest", 2)])
    now = int(time.time())
    for index, age in ((0, 9), (1, 1)):
        file = Path(ingest_ledger(str(tmp_path), plan).folder) / f"{index:06d}.json"
        os.utime(file, (now - age, now - age))
    assert cli.main(["status", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["", "ingest: 0.5 spectra/s, 8 s left"]


def test_a_root_without_a_plan_ends_with_1(tmp_path: Path, capsys: Capture) -> None:
    for options in ([], ["--json"]):
        assert cli.main(["status", str(tmp_path), *options]) == 1
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.startswith(f"error: ROOT is '{tmp_path}', expected a folder that holds a plan.json")


def test_only_stages_with_a_model_have_latents(capsys: Capture) -> None:
    _, ingest, encode = printed(capsys, stage(), stage(stage="encode", model="toy"))
    assert ingest.split() == ["ingest", "3", "1", "2", "0", "4", "2"]
    assert encode.split() == ["encode", "toy", "3", "1", "2", "0", "4", "3", "2"]


def test_columns_are_aligned_whatever_stands_in_them(capsys: Capture) -> None:
    wide = stage(stage="encode", model="a-model-of-a-long-name", chunks=1_234_567_890, good=1_234_567_890_123)
    lines = printed(capsys, stage(), wide)
    assert len({len(line) for line in lines}) == 1
    assert (
        len({line.index(word) + len(word) for line, word in zip(lines, ("chunks", "3", "1234567890"), strict=True)})
        == 1
    )


def test_failures_are_counted_and_named_in_the_order_of_the_stages(capsys: Capture) -> None:
    lines = printed(
        capsys,
        stage(failed={2: "no answer", 11: "no memory"}),
        stage(stage="encode", model="toy", failed={2: "its spectra are missing"}),
    )
    assert [line.split()[-4] for line in lines[1:2]] == ["2"]
    assert lines[3:] == [
        "failed: ingest 000002: no answer",
        "failed: ingest 000011: no memory",
        "failed: encode toy 000002: its spectra are missing",
    ]


def test_spectra_are_counted_by_quality_bit_and_those_without_latents_are_named(capsys: Capture) -> None:
    lines = printed(capsys, stage(quality={"NO_FILE": 12, "FIBER_MASKED": 3}), stage(stage="encode", model="toy"))
    assert lines[3:] == [
        "",
        "spectra by quality bit, ingest:",
        "  no_file                   12   no latents",
        "  fiber_masked               3",
    ]


@pytest.mark.parametrize("bit", list(Quality), ids=lambda bit: str(bit.name))
def test_every_quality_bit_can_be_shown(capsys: Capture, bit: Quality) -> None:
    lines = printed(capsys, stage(quality={str(bit.name): 7}))
    (line,) = (line for line in lines if line.split()[:2] == [str(bit.name).lower(), "7"])
    assert line.endswith("no latents") == bool(bit & Quality.UNUSABLE)


def test_in_runs_of_earlier_versions_a_missing_redshift_means_no_latents(capsys: Capture) -> None:
    earlier = {"quality": {"NO_REDSHIFT": 7}, "unusable": Quality.UNUSABLE | Quality.NO_REDSHIFT}
    assert printed(capsys, stage(**earlier))[-1] == "  no_redshift                7   no latents"
    assert "unusable" not in stage(**earlier).to_dict()


def test_a_rate_is_told_for_every_stage_that_has_one(capsys: Capture) -> None:
    lines = printed(capsys, stage(rate=12.34, eta=3661.0), stage(stage="encode", model="toy", rate=2.0, eta=None))
    assert lines[3:] == ["", "ingest: 12.3 spectra/s, 1 h 01 min left"]
