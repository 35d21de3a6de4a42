"""`run`, `ingest`, `encode` and `finalize`: what they print and how they end. All work is done in this process."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

import pipeline
from pipeline.archive import attempts as sources
from pipeline.cli import main as cli
from pipeline.cli.run import open_statements
from pipeline.store.root import encode_ledger, ingest_ledger, read_plan
from tests.running import break_file, file_hashes, make_root

Capture = pytest.CaptureFixture[str]
RESUMES = "run the same command again to retry them; finished chunks are not repeated"


@dataclass(frozen=True)
class Templates:
    """One run of two chunks with two models: as planned, with its spectra, and done by `run`, which printed this."""

    planned: Path
    ingested: Path
    done: Path
    status: int
    lines: list[str]
    messages: list[str]


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory, mirror: Path) -> Templates:
    folder = tmp_path_factory.mktemp("commands")
    planned, _ = make_root(folder, mirror, name="planned", n=4, models=("random", "second"))
    ingested, done = folder / "ingested", folder / "done"
    shutil.copytree(planned, ingested)
    pipeline.run(ingested, serial=True, stages=("ingest",), progress=False)
    shutil.copytree(ingested, done)
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = cli.main(["run", str(done), "--serial"])
    return Templates(Path(planned), ingested, done, status, out.getvalue().splitlines(), err.getvalue().splitlines())


def copy_of(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "run"))


@pytest.fixture
def planned(tmp_path: Path, templates: Templates) -> Path:
    return copy_of(templates.planned, tmp_path)


@pytest.fixture
def ingested(tmp_path: Path, templates: Templates) -> Path:
    return copy_of(templates.ingested, tmp_path)


@pytest.fixture
def done(tmp_path: Path, templates: Templates) -> Path:
    return copy_of(templates.done, tmp_path)


def command(capsys: Capture, *words: str | Path) -> tuple[int, list[str], list[str]]:
    """Do a command; gives its exit status and the lines on stdout and stderr."""
    capsys.readouterr()
    status = cli.main([str(word) for word in words])
    shown = capsys.readouterr()
    return status, shown.out.splitlines(), shown.err.splitlines()


def usage_error(capsys: Capture, *words: str | Path) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def opens(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("import xarray as xr; ")]


def is_closed(store: Path) -> bool:
    return "consolidated_metadata" in json.loads((store / "zarr.json").read_text())


def done_chunks(root: Path) -> tuple[set[int], set[int], set[int]]:
    plan = read_plan(str(root))
    ledgers = ingest_ledger(str(root), plan), *(encode_ledger(str(root), plan, each.name) for each in plan.models)
    first, second, third = (ledger.done() for ledger in ledgers)
    return first, second, third


def test_ingest_prints_the_state_of_all_stages_and_nothing_to_open(planned: Path, capsys: Capture) -> None:
    status, lines, _ = command(capsys, "ingest", planned, "--serial")
    assert status == 0
    assert [line.split()[:3] for line in lines[:4]] == [
        ["stage", "model", "chunks"],
        ["ingest", "2", "2"],
        ["encode", "random", "2"],
        ["encode", "second", "2"],
    ]
    assert opens(lines) == []
    assert done_chunks(planned) == ({0, 1}, set(), set())


def test_encode_prints_how_to_open_the_models_that_were_asked_for(done: Path, capsys: Capture) -> None:
    status, lines, _ = command(capsys, "encode", done, "--serial", "--model", "second")
    assert status == 0
    assert opens(lines) == [f"import xarray as xr; {open_statements(f'{done}/encodings/second.zarr', 2)}"]


def test_run_does_what_is_pending_and_prints_how_to_open_all(templates: Templates) -> None:
    assert templates.status == 0
    assert templates.messages[0] == "6 chunks, 2 done before, 4 to do"
    assert templates.lines[2].split()[:7] == ["encode", "random", "2", "2", "0", "0", "4"]
    urls = [f"{templates.done}/encodings/{name}.zarr" for name in ("random", "second")]
    assert opens(templates.lines) == [f"import xarray as xr; {open_statements(url, 2)}" for url in urls]
    assert is_closed(templates.done / "spectra.zarr")
    assert done_chunks(templates.done) == ({0, 1}, {0, 1}, {0, 1})


def test_a_run_of_one_model_leaves_the_others_and_the_stores_open(ingested: Path, capsys: Capture) -> None:
    status, lines, _ = command(capsys, "run", ingested, "--serial", "--model", "second")
    assert (status, len(opens(lines))) == (0, 1)
    assert done_chunks(ingested) == ({0, 1}, set(), {0, 1})
    assert not is_closed(ingested / "spectra.zarr")
    assert not is_closed(ingested / "encodings" / "second.zarr")


def test_a_run_that_is_done_does_nothing_and_prints_the_same(done: Path, templates: Templates, capsys: Capture) -> None:
    before = file_hashes(done)
    status, lines, _ = command(capsys, "run", done)
    assert status == 0
    assert lines == [line.replace(str(templates.done), str(done)) for line in templates.lines]
    assert file_hashes(done) == before


def test_root_is_printed_as_it_was_given_with_single_slashes(
    done: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(done.parent)
    _, lines, _ = command(capsys, "run", "./run/", "--model", "random")
    assert opens(lines) == [f"import xarray as xr; {open_statements('./run/encodings/random.zarr', 2)}"]


def test_failed_chunks_end_with_3_each_with_its_reason(
    planned: Path, tmp_path: Path, mirror: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_BACKOFF", 0.001)
    spectra = "sdss/spectro/redux/26/spectra/lite/0266"
    good, broken = f"{spectra}/spec-0266-51602-0001.fits", f"{spectra}/spec-0266-51602-0166.fits"
    pipeline.plan(planned, source=tmp_path / "sas")
    break_file(tmp_path / "sas" / broken)
    (tmp_path / "sas" / good).write_bytes((mirror / good).read_bytes())
    status, lines, shown = command(capsys, "run", planned, "--serial", "--model", "random")
    assert (status, lines) == (3, [])
    failed = shown[shown.index("error: 2 of 4 chunks failed:") :]
    missing = "its spectra are missing, since their ingest failed"
    assert failed[1].startswith(f"  encode random 000001: {missing}: {broken}: OSError: ")
    assert failed[2].startswith(f"  ingest 000001: {broken}: OSError: ")
    assert failed[3:] == [RESUMES]
    assert done_chunks(planned) == ({0}, {0}, set())


def test_encode_before_any_ingest_ends_with_1(planned: Path, capsys: Capture) -> None:
    status, lines, shown = command(capsys, "encode", planned, "--serial")
    assert (status, lines) == (1, [])
    assert shown == [f"error: the spectra of {planned} are not ingested; run ingest first"]


def test_finalize_names_the_root_and_ends_with_0(done: Path, capsys: Capture) -> None:
    before = file_hashes(done)
    assert command(capsys, "finalize", done) == (0, [f"finalized {done}"], [])
    assert file_hashes(done) == before


def test_finalize_of_a_run_that_is_not_done_ends_with_1(ingested: Path, capsys: Capture) -> None:
    status, lines, shown = command(capsys, "finalize", ingested)
    assert (status, lines) == (1, [])
    assert shown == ["error: encode random: chunks 0, 1 not done; encode second: chunks 0, 1 not done"]


@pytest.mark.parametrize(
    ("verb", "options", "message"),
    [
        ("run", ("--serial", "--model", "nosuch"), "model is 'nosuch', expected one of the plan's models"),
        ("encode", ("--serial", "--model", "nosuch"), "model is 'nosuch', expected one of the plan's models"),
        ("run", ("--workers", "0"), "--workers is 0, expected at least 1"),
        ("ingest", ("--memory-limit", "much"), "--memory-limit is 'much', expected a size such as '4 GB'"),
        ("ingest", ("--serial", "--max-requests-per-second", "0"), "max_requests_per_second is 0.0, expected"),
        ("run", ("--serial", "--gpu"), "--gpu is True, expected a CUDA device in this machine"),
        ("run", ("--scheduler", "nonsense"), "--scheduler is 'nonsense', expected the address of"),
    ],
)
def test_what_cannot_be_ends_with_1_and_one_message(
    planned: Path,
    verb: str,
    options: tuple[str, ...],
    message: str,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SPENDER_DEVICE", "cpu")
    before = file_hashes(planned)
    status, lines, shown = command(capsys, verb, planned, *options)
    assert (status, lines, len(shown)) == (1, [], 1)
    assert shown[0].startswith(f"error: {message}")
    assert file_hashes(planned) == before


def test_a_wait_is_announced_where_there_is_a_cluster_to_wait_for(planned: Path, capsys: Capture) -> None:
    _, _, shown = command(capsys, "run", planned, "--workers", "0", "--wait", "7")
    assert shown[0] == "waiting up to 7 s for the cluster"
    _, _, shown = command(capsys, "encode", planned, "--serial", "--wait", "7")
    assert shown[0].startswith("error: the spectra of ")


@pytest.mark.parametrize("seconds", ["0", "-1", "inf", "nan", "soon"])
def test_a_wait_is_a_number_of_seconds_above_zero(seconds: str, capsys: Capture) -> None:
    message = usage_error(capsys, "run", "nowhere", f"--wait={seconds}")
    assert message.endswith(f"argument --wait: invalid number of seconds value: '{seconds}'")


@pytest.mark.parametrize(
    "words",
    [
        ("run",),
        ("run", "ROOT", "--serial", "--workers", "2"),
        ("run", "ROOT", "--serial", "--scheduler", "tcp://127.0.0.1:9"),
        ("run", "ROOT", "--workers", "many"),
        ("ingest", "ROOT", "--model", "random"),
        ("ingest", "ROOT", "--gpu"),
        ("encode", "ROOT", "--max-requests-per-second", "5"),
        ("finalize", "ROOT", "--serial"),
    ],
    ids=" ".join,
)
def test_options_that_do_not_go_with_a_verb_are_wrong_usage(words: tuple[str, ...], capsys: Capture) -> None:
    assert usage_error(capsys, *words).startswith("spender-pipeline")


@pytest.mark.parametrize("verb", ["run", "ingest", "encode", "finalize"])
def test_a_root_without_a_plan_ends_with_1(tmp_path: Path, verb: str, capsys: Capture) -> None:
    status, _, shown = command(capsys, verb, tmp_path / "nothing")
    assert (status, len(shown)) == (1, 1)
    assert "expected a folder that holds a plan.json" in shown[0]
    assert not (tmp_path / "nothing").exists()
