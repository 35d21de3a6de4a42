from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.archive import attempts as sources
from pipeline.cli import main as cli
from pipeline.compute import choice
from pipeline.planning.plan import Plan
from pipeline.store import root as runs
from spender_core.dataset import VALID_FRACTION
from spender_core.weights import PUBLISHED
from tests.running import break_file, markers, random_checkpoint

pytestmark = pytest.mark.slow

FEW = "PLATE == 266 and FIBERID < 200"


@pytest.fixture
def table(tmp_path: Path, catalog: Path) -> Path:
    """Select a few targets of one plate."""
    assert cli.main(["targets", str(catalog), "--where", FEW, "--output", str(tmp_path / "t.parquet")]) == 0
    return tmp_path / "t.parquet"


@pytest.fixture
def planned(tmp_path: Path, table: Path, mirror: Path) -> Path:
    """Plan a run over a few targets."""
    assert make_plan(tmp_path / "run", table, mirror) == 0
    return tmp_path / "run"


def make_plan(root: Path, table: Path, source: Path, *options: str) -> int:
    model = f"random={random_checkpoint(root.parent)}"
    return cli.main(["plan", str(root), "--targets", str(table), "--source", str(source), "--model", model, *options])


def read_plan(root: Path) -> Plan:
    return runs.read_plan(str(root))


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """Give the message on stderr: one line that begins with "error:"."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


def test_a_run_from_catalog_to_plot(planned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", str(planned), "--serial"]) == 0
    shown = capsys.readouterr().out
    assert "encode  random" in shown
    assert f'xr.open_zarr("{planned}/encodings/random.zarr", chunks=None)' in shown
    assert cli.main(["status", str(planned)]) == 0
    assert "failed" in capsys.readouterr().out
    assert cli.main(["verify", str(planned)]) == 0
    assert cli.main(["finalize", str(planned)]) == 0
    assert cli.main(["plot", str(planned), "--row", "0", "--output", str(tmp_path / "plot.png")]) == 0
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_status_for_programs(planned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert cli.main(["status", str(planned), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [stage["stage"] for stage in shown["stages"]] == ["ingest", "encode"]
    assert shown["stages"][0]["pending"] == shown["stages"][0]["chunks"] > 0


def test_a_plan_is_kept_with_its_targets_in_groups_of_a_shard(planned: Path) -> None:
    import pyarrow.parquet as pq

    plan = read_plan(planned)
    with pq.ParquetFile(planned / "targets.parquet") as table:
        assert table.metadata.num_rows == plan.n_spectra
        assert table.metadata.row_group(0).num_rows == plan.shard
    assert os.path.isabs(plan.config.source)


def test_the_same_plan_again_is_the_same_plan(planned: Path, table: Path, mirror: Path) -> None:
    before = (planned / "plan.json").read_bytes()
    assert make_plan(planned, table, mirror) == 0
    assert (planned / "plan.json").read_bytes() == before


def test_another_plan_in_the_same_root_is_refused_by_what_differs(
    planned: Path, table: Path, mirror: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (planned / "plan.json").read_bytes()
    capsys.readouterr()
    for targets in (["--targets", str(table), "--source", str(mirror)], []):
        assert cli.main(["plan", str(planned), *targets, "--shard", "4"]) == 1
        assert "shard: 4 here" in error_of(capsys)
    assert (planned / "plan.json").read_bytes() == before


def test_other_targets_in_the_same_root_are_refused(
    planned: Path, tmp_path: Path, catalog: Path, mirror: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.parquet"
    assert cli.main(["targets", str(catalog), "--where", "PLATE == 267", "--output", str(other)]) == 0
    before = (planned / "targets.parquet").read_bytes()
    capsys.readouterr()
    assert make_plan(planned, other, mirror) == 1
    assert "targets" in error_of(capsys)
    assert (planned / "targets.parquet").read_bytes() == before


def test_another_mirror_is_the_same_plan(planned: Path, tmp_path: Path, table: Path) -> None:
    before = read_plan(planned)
    (tmp_path / "mirror").mkdir()
    assert make_plan(planned, table, tmp_path / "mirror") == 0
    after = read_plan(planned)
    assert after.config.source == str(tmp_path / "mirror")
    assert after.ingest_fingerprint == before.ingest_fingerprint


def test_a_second_model_is_added_and_uses_the_same_spectra(planned: Path, tmp_path: Path) -> None:
    assert cli.main(["run", str(planned), "--serial"]) == 0
    spectra = {file: file.stat().st_mtime_ns for file in (planned / "spectra.zarr").rglob("c/*")}
    assert cli.main(["plan", str(planned), "--model", f"second={random_checkpoint(tmp_path, 2)}"]) == 0
    assert [model.name for model in read_plan(planned).models] == ["random", "second"]
    assert cli.main(["run", str(planned), "--serial"]) == 0
    assert (planned / "encodings" / "second.zarr" / "latents").is_dir()
    assert {file: file.stat().st_mtime_ns for file in (planned / "spectra.zarr").rglob("c/*")} == spectra


def test_another_checkpoint_under_the_same_name_is_refused(
    planned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert cli.main(["plan", str(planned), "--model", f"random={random_checkpoint(tmp_path, 2)}"]) == 1
    assert "checkpoint of model random" in error_of(capsys)


def test_a_plan_from_a_file_is_that_of_the_options(tmp_path: Path, planned: Path, table: Path, mirror: Path) -> None:
    checkpoint = random_checkpoint(tmp_path)
    text = f'targets = "{table}"\nsource = "{mirror}"\n[[model]]\nname = "random"\ncheckpoint = "{checkpoint}"\n'
    (tmp_path / "survey.toml").write_text(text)
    assert cli.main(["plan", str(tmp_path / "written"), "--config", str(tmp_path / "survey.toml")]) == 0
    assert (tmp_path / "written" / "plan.json").read_bytes() == (planned / "plan.json").read_bytes()


def test_model_options_reach_the_plan(tmp_path: Path, table: Path, mirror: Path) -> None:
    options = ("--variables", "latents,reconstruction", "--precision", "bf16", "--micro-batch", "3", "--shard", "6")
    assert make_plan(tmp_path / "run", table, mirror, *options) == 0
    (model,) = read_plan(tmp_path / "run").models
    assert (model.variables, model.precision, model.micro_batch) == (("latents", "reconstruction"), "bf16", 3)
    assert cli.main(["run", str(tmp_path / "run"), "--serial"]) == 0
    arrays = {folder.name for folder in (tmp_path / "run" / "encodings" / "random.zarr").iterdir()}
    assert {"latents", "reconstruction", "quality"} <= arrays
    assert not arrays & {"restframe", "chi2"}


def test_the_default_model_is_the_embedded_one() -> None:
    assert PUBLISHED[choice.DEFAULT_MODEL].instrument == "sdss"


def test_failed_chunks_end_with_3_and_the_same_command_resumes(
    tmp_path: Path, table: Path, mirror: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_BACKOFF", 0.01)  # ten retries would take three minutes
    source = tmp_path / "sas"
    plate = Path("sdss/spectro/redux/26/spectra/lite/0266")
    (source / plate).mkdir(parents=True)
    files = sorted((mirror / plate).iterdir())
    for file in files:
        (source / plate / file.name).write_bytes(file.read_bytes())
    broken = source / plate / files[1].name
    break_file(broken)
    assert make_plan(tmp_path / "run", table, source) == 0
    assert cli.main(["run", str(tmp_path / "run"), "--serial"]) == 3
    shown = capsys.readouterr().err
    assert "2 of" in shown
    assert broken.name in shown
    assert "run the same command again to retry them" in shown
    assert cli.main(["status", str(tmp_path / "run")]) == 0
    assert broken.name in capsys.readouterr().out
    broken.unlink()
    broken.write_bytes((mirror / plate / broken.name).read_bytes())
    assert cli.main(["run", str(tmp_path / "run"), "--serial"]) == 0
    assert not list((tmp_path / "run" / "ledger").glob("*/failed/*"))


def test_verify_ends_with_3_and_names_the_damaged_chunk(planned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", str(planned), "--serial"]) == 0
    victim = sorted((planned / "spectra.zarr" / "norm" / "c").iterdir())[1]
    victim.write_bytes(sorted((planned / "spectra.zarr" / "norm" / "c").iterdir())[0].read_bytes())
    capsys.readouterr()
    assert cli.main(["verify", str(planned)]) == 3
    shown = capsys.readouterr()
    assert "ingest chunk 1: norm" in shown.out
    assert shown.err.startswith("error: 1 problem")


@pytest.mark.parametrize(
    ("command", "names"),
    [
        (["status", "ROOT"], "plan.json"),
        (["run", "ROOT", "--serial"], "plan.json"),
        (["verify", "ROOT"], "plan.json"),
        (["finalize", "ROOT"], "plan.json"),
        (["plot", "ROOT", "--row", "0", "--output", "x.png"], "plan.json"),
        (["train", "ROOT", "--output", "x.pt"], "plan.json"),
        (["plan", "ROOT", "--source", "somewhere"], "--targets"),
        (["plan", "ROOT", "--targets", "somewhere"], "--source"),
        (["plan", "ROOT", "--targets", "nowhere.parquet", "--source", "somewhere"], "nowhere.parquet"),
        (["plan", "ROOT", "--config", "nowhere.toml"], "nowhere.toml"),
        (["targets", "nowhere.fits", "--output", "t.parquet"], "nowhere.fits"),
        (["status", "nosuch://bucket/run"], "nosuch"),
        (["targets", "~nosuchuser/c.fits", "--output", "t.parquet"], "~nosuchuser"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(
    tmp_path: Path, command: list[str], names: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(tmp_path / "nothing")
    assert cli.main([root if word == "ROOT" else word for word in command]) == 1
    assert names in error_of(capsys)
    assert not Path(root).exists()


def test_a_catalog_is_not_overwritten_by_its_targets(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = table.read_bytes()
    assert cli.main(["targets", str(table), "--output", f"{table.parent}/./{table.name}"]) == 1
    assert "--output" in error_of(capsys)
    assert table.read_bytes() == before


def test_a_cache_that_cannot_be_filled_is_refused_before_anything_is_fetched(
    tmp_path: Path, table: Path, mirror: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, cache = tmp_path / "run", tmp_path / "cache"
    cache.write_text("a file where the folder should be")
    assert make_plan(root, table, mirror, "--cache", str(cache)) == 0
    capsys.readouterr()
    assert cli.main(["ingest", str(root), "--serial"]) == 1
    assert error_of(capsys).startswith(f"error: cache is '{cache}'")
    assert not (root / "spectra.zarr").exists()


def test_a_cache_named_in_a_file_does_not_depend_on_where_the_command_runs(
    tmp_path: Path, table: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "survey.toml"
    file.write_text(f'source = "{mirror}"\ntargets = "{table}"\ncache = "mirror"\n')
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plan", "run", "--config", str(file)]) == 0
    assert read_plan(tmp_path / "run").config.cache == str(tmp_path / "mirror")


def test_mistakes_with_a_plan_are_told_in_one_line(planned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(planned)
    for command, names in (
        (["run", root, "--model", "nosuch"], "nosuch"),
        (["run", root, "--workers", "0"], "--workers"),
        (["run", root, "--memory-limit", "much"], "--memory-limit"),
        (["encode", root, "--serial"], "ingest"),
        (["plot", root, "--id", "1-2-3", "--output", "x.png"], "1-2-3"),
        (["plot", root, "--row", "99", "--output", "x.png"], "--row"),
        (["plan", root, "--model", "nosuch.pt"], "nosuch.pt"),
        (["plan", root, "--model", "desi_edr_star"], "desi"),
        (["finalize", root], "not done"),
        (["train", root, "--output", "x.pt"], "ingest"),
    ):
        capsys.readouterr()
        assert cli.main(command) == 1, command
        assert names in error_of(capsys)


@pytest.mark.parametrize("command", [[], ["nosuch"], ["run"], ["run", "x", "--serial", "--workers", "2"]])
def test_wrong_usage_ends_with_2(command: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(command)
    assert ended.value.code == 2


@pytest.fixture
def slow_server(mirror: Path) -> Iterator[str]:
    """Serve the mirror one request at a time."""
    code = (
        "import functools, http.server, sys, time\n"
        "class Slow(http.server.SimpleHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        time.sleep(0.5)\n"
        "        super().do_GET()\n"
        "server = http.server.HTTPServer(('127.0.0.1', 0), functools.partial(Slow, directory=sys.argv[1]))\n"
        "print(server.server_port, flush=True)\n"
        "server.serve_forever()\n"
    )
    command = [sys.executable, "-c", code, str(mirror)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.kill()


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 3, "terminated")]
)
@pytest.mark.parametrize("options", [("--serial",), ("--workers", "2")], ids=["serial", "workers"])
def test_an_interrupted_run_ends_at_once_with_a_short_message(
    planned: Path, table: Path, slow_server: str, number: signal.Signals, status: int, word: str, options: tuple[str]
) -> None:
    assert make_plan(planned, table, slow_server) == 0  # type: ignore[arg-type]
    command = [sys.executable, "-m", "pipeline", "run", str(planned), *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 60
        while not markers(planned) and time.monotonic() < deadline:
            time.sleep(0.02)
        # As at a terminal: Ctrl-C goes to the workers, too.
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        shown, _ = process.communicate(timeout=30)
    assert process.returncode == status
    assert shown.splitlines()[-1] == f"{word}; run the same command again to resume"
    assert "Traceback" not in shown
    assert "distributed" not in shown


def test_a_closed_pipe_is_told_in_one_line(planned: Path) -> None:
    command = [sys.executable, "-m", "pipeline", "status", str(planned)]
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert process.returncode == 1
    assert process.stderr.strip() == "error: the output was closed before all of it was written"


def test_train_writes_a_model_that_plan_takes(planned: Path, tmp_path: Path) -> None:
    assert 0 < VALID_FRACTION < 1
    assert cli.main(["ingest", str(planned), "--serial"]) == 0
    trained = tmp_path / "trained.pt"
    what = ["--output", str(trained), "--epochs", "2", "--batch-size", "8", "--latents", "3"]
    assert cli.main(["train", str(planned), *what]) == 0
    assert cli.main(["plan", str(planned), "--model", str(trained)]) == 0
    assert {model.name: model.n_latent for model in read_plan(planned).models} == {"random": 4, "trained": 3}
    assert storage.exists(str(trained))


def test_a_look_at_a_run_does_not_wait_for_what_computes() -> None:
    code = "import sys, pipeline.cli.main; sys.exit(bool({'torch', 'distributed'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "command",
    [
        "status hf://datasets/a/b",
        "targets hf://datasets/a/b/c.fits --output {folder}/t.parquet",
        "plan {folder}/run --targets hf://datasets/a/b/t.parquet --source {folder}",
        "plan hf://datasets/a/b --targets {table} --source {folder}",
        "plan {folder}/run --targets {table} --source {folder} --model hf://a/b/model.pt",
    ],
)
def test_hugging_face_without_a_network_is_said_in_one_line(tmp_path: Path, table: Path, command: str) -> None:
    """Its client has error classes of its own; it reads its endpoint when it is imported."""
    words = command.format(folder=tmp_path, table=table).split()
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    process = [sys.executable, "-m", "pipeline", *words]
    done = subprocess.run(process, capture_output=True, text=True, check=False, timeout=200, env=environment)
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "hf://" in line
