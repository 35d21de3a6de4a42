"""`train` as processes: into a bucket, stopped by signals, and by several processes of torchrun."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs
import torch

from pipeline import storage
from pipeline.cli import main as cli
from pipeline.compute import executor, job
from spender_core.instrument import SDSS
from spender_core.weights import load_model
from tests import s3
from tests.running import Recorder, make_root

SMALL = ("--latents", "3", "--rest-range", "4000:4200")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "SPENDER_DEVICE": "cpu"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, mirror: Path) -> str:
    made, plan = make_root(tmp_path_factory.mktemp("root"), mirror, n=30, shard=10)
    executor.run(job.pending(made, plan, ("ingest",), []), None, Recorder())
    return made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.Server]:
    with s3.serve(tmp_path_factory.mktemp("s3")) as running:
        s3.client(running)
        with s3.as_default(running):
            yield running


@pytest.fixture
def bucket(server: s3.Server) -> str:
    name = f"test-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}"


def command(root: str, output: str, *options: str) -> list[str]:
    return ["train", root, "--output", output, *SMALL, *options]


def losses(log: Path) -> list[tuple[float, float]]:
    records = [json.loads(line) for line in log.read_text().splitlines()]
    return [(record["train"]["sdss"], record["valid"]["sdss"]) for record in records]


def test_a_bucket_gets_checkpoint_log_and_figure_and_training_goes_on_from_it(
    root: str, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--batch-size", "16", "--schedule", "constant", "--epochs")
    output = f"{bucket}/models/m.pt"
    assert cli.main(command(root, output, *options, "1")) == 0
    assert cli.main(command(root, output, *options, "2")) == 0
    assert "resumed in epoch 2" in capsys.readouterr().err
    assert storage.list_names(f"{bucket}/models") == ["m.jsonl", "m.png", "m.pt"]
    whole = tmp_path / "whole.pt"
    assert cli.main(command(root, str(whole), *options, "2")) == 0
    there, history = load_model(output, SDSS())
    here, expected = load_model(whole, SDSS())
    assert history == expected
    state = there.state_dict()
    assert all(torch.equal(state[name], values) for name, values in here.state_dict().items())


def test_a_bucket_that_cannot_be_written_is_refused_before_the_first_step(
    root: str, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with s3.as_reader():
        assert cli.main(command(root, f"{bucket}/m.pt")) == 1
    shown = capsys.readouterr()
    assert "error: --output is" in shown.err
    assert "expected a place that can be written" in shown.err
    assert "spectra:" not in shown.err
    assert storage.list_names(bucket) == []


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_stopped_process_says_how_to_go_on_and_nothing_is_lost(
    root: str, tmp_path: Path, number: signal.Signals, status: int, word: str
) -> None:
    options = ("--batch-size", "8", "--epochs", "4")
    output = tmp_path / "m.pt"
    start = [sys.executable, "-m", "pipeline"]
    words = [*start, *command(root, str(output), *options)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stderr is not None
        shown = []
        for line in process.stderr:
            shown.append(line)
            if line.startswith("epoch 1 of 4"):
                process.send_signal(number)
        assert process.wait(60) == status
    text = "".join(shown)
    assert f"saved: {output}" in text
    assert f"{word}; run the same command again to resume" in text
    assert "Traceback" not in text
    resume = next(line for line in shown if line.startswith("resume with: spender-pipeline "))
    resumed = subprocess.run(
        [*start, *shlex.split(resume)[3:]], capture_output=True, text=True, check=True, env=ENVIRONMENT
    )
    assert "resumed in epoch" in resumed.stderr
    whole = tmp_path / "whole.pt"
    subprocess.run([*start, *command(root, str(whole), *options)], capture_output=True, check=True, env=ENVIRONMENT)
    assert losses(output.with_suffix(".jsonl")) == losses(whole.with_suffix(".jsonl"))


def test_two_processes_train_as_one_and_the_first_alone_writes_and_prints(root: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one.pt", tmp_path / "two.pt"
    # All losses, in batches of which the last one cannot be halved.
    options = ("--preset", "paper2", "--slope", "5", "--batch-size", "8", "--epochs", "2", "--lsf", "5")
    single = [sys.executable, "-m", "pipeline", *command(root, str(one), *options)]
    subprocess.run(single, check=True, capture_output=True, env=ENVIRONMENT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    double = [*launcher, "pipeline", *command(root, str(two), *options)]
    done = subprocess.run(double, check=False, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained on") == done.stderr.count("epoch 2 of 2") == 1
    assert {file.name for file in tmp_path.iterdir()} == {
        f"{name}.{ending}" for name in ("one", "two") for ending in ("pt", "jsonl", "png")
    }
    logs = [[json.loads(line) for line in file.with_suffix(".jsonl").read_text().splitlines()] for file in (one, two)]
    for mine, theirs in zip(*logs, strict=True):
        for key in ("train", "valid", "train_terms", "valid_terms"):
            assert len(mine[key]) > 0
            assert theirs[key] == pytest.approx(mine[key], rel=1e-5)
