"""A run as a job of a real Slurm: whatever ends it, its results are those of a run on this machine."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest

import pipeline
from pipeline.catalog import targets
from pipeline.compute import preflight
from pipeline.store import root as runs
from tests import slurm as slurms
from tests.faulty_server import QuietServer
from tests.running import file_hashes, make_root, markers

pytestmark = pytest.mark.long

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "deploy" / "slurm.md").read_text(encoding="utf-8")
SPECTRA, SHARD, FAST = 48, 2, 8
TASKS = 2 * SPECTRA // SHARD
SIZE = ("--cpus-per-task=3", "--mem-per-cpu=1500")  # one CPU worker on each node, beside one for each GPU


class Archive(SimpleHTTPRequestHandler):
    """Serves some files at once, and the others after so many seconds."""

    fast: frozenset[str] = frozenset()
    pace = 0.0

    def do_GET(self) -> None:
        if self.path.rpartition("/")[2] not in Archive.fast:
            time.sleep(Archive.pace)
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@dataclass
class Trials:
    """A Slurm, a plan, what a run on this machine makes of it, and the table of what was tried."""

    slurm: slurms.Slurm
    folder: Path
    source: str
    mirror: Path
    reference: dict[str, str] = field(default_factory=dict)
    rows: list[tuple[str, str, int, int, int, int]] = field(default_factory=list)

    def new_root(self, source: str | None = None) -> Path:
        root, _ = make_root(
            self.folder, self.mirror, name=f"run-{len(list(self.folder.iterdir()))}", n=SPECTRA, shard=SHARD,
            source=source or self.source,
        )  # fmt: skip
        return Path(root)

    def submit(self, root: Path, *options: str, verb: str = "run", **variables: str) -> str:
        command = str(REPOSITORY / "deploy" / "slurm" / "run.sbatch")
        return self.slurm.submit(*SIZE, "--gres=gpu:1", *options, command, verb, str(root), **variables)

    def wait_for_chunks(self, root: Path, count: int) -> None:
        self.slurm.wait_until(lambda: markers(root) >= count, f"{markers(root)} of {count} chunks")

    def check(
        self, root: Path, job: str, what: str, before: int, reference: dict[str, str] | None = None, tasks: int = TASKS
    ) -> None:
        """Add a row to the table, and see that the run is complete and the same as on this machine."""
        found, wanted = file_hashes(root), reference or self.reference
        differing = {name for name in found | wanted if found.get(name) != wanted.get(name)}
        self.rows.append((job, what, before, markers(root), tasks, len(differing)))
        assert differing == set()
        assert pipeline.status(root).finished


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory, mirror: Path) -> Iterator[Trials]:
    folder = tmp_path_factory.mktemp("slurm")
    with (
        slurms.start(folder / "cluster") as slurm,
        QuietServer(("127.0.0.1", 0), partial(Archive, directory=str(mirror))) as server,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (folder / "runs").mkdir()
        made = Trials(slurm, folder / "runs", f"http://127.0.0.1:{server.server_address[1]}", mirror)
        local = made.new_root()
        rows = targets.read_rows(runs.targets_url(str(local)), 0, FAST)
        Archive.fast = frozenset(
            f"spec-{row.plate:04}-{row.mjd}-{row.fiberid:04}.fits" for row in rows.itertuples(index=False)
        )
        pipeline.run(local, serial=True)
        made.reference = file_hashes(local)
        yield made
        server.shutdown()
    print(
        "\n\n| job | what was done to it | chunks before | after | of | objects differing |\n|---|---|---|---|---|---|"
    )
    for row in made.rows:
        print("|", " | ".join(map(str, row)), "|")


@pytest.fixture
def slow() -> Iterator[None]:
    """Let the archive take its time for all but the first chunks, until the test sets it free."""
    Archive.pace = 10.0
    yield
    Archive.pace = 0.0


@pytest.fixture(autouse=True)
def no_job_left(trials: Trials) -> Iterator[None]:
    yield
    trials.slurm.cancel_all()


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def commands(title: str, **names: str) -> list[list[str]]:
    """Read the commands of a section of the page; names: what stands on it, and what is here instead."""
    text = "\n".join(re.findall(r"^ {4}((?:spender-pipeline|sbatch|squeue) .+)$", section(title), re.MULTILINE))
    for name, here in names.items():
        assert name in text
        text = text.replace(name, here)
    return [shlex.split(line) for line in text.splitlines()]


def do(trials: Trials, command: list[str]) -> None:
    """Do a command of the page, and wait for its job where it is one."""
    if command[0] != "sbatch":
        trials.slurm.call(*command)
        return
    deploy = trials.slurm.folder / "deploy"
    if not deploy.exists():
        deploy.symlink_to(REPOSITORY / "deploy")
    trials.slurm.wait(trials.slurm.submit(*command[1:]), "COMPLETED")


SMALLER = {"--nodes=4": "--nodes=1", "--cpus-per-task=16": " ".join(SIZE)}


def test_who_follows_the_page_gets_a_finished_run(trials: Trials, catalog: Path) -> None:
    root = trials.folder / "followed"
    here = {
        "/scratch/dr17": str(root),
        "specObj-dr17.fits": str(catalog),
        "https://data.sdss.org/sas/dr17": trials.source,
    }
    for command in commands("A run", **here, **SMALLER):
        do(trials, command)
    gpu_workers = max(trials.slurm.folder.glob("slurm-*-gpu.out"), key=lambda file: file.stat().st_mtime)
    assert gpu_workers.read_text().count("Start worker at") == 2  # one for each GPU
    local = trials.folder / "followed-here"
    local.mkdir()
    for name in ("plan.json", "targets.parquet"):
        (local / name).write_bytes((root / name).read_bytes())
    pipeline.run(local, serial=True)
    trials.check(root, "run, as the page says", "nothing", 0, file_hashes(local), markers(local))


def test_ingest_with_internet_and_encode_without(trials: Trials, mirror: Path) -> None:
    with QuietServer(("127.0.0.1", 0), partial(Archive, directory=str(mirror))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        root = trials.new_root(f"http://127.0.0.1:{server.server_address[1]}")
        ingest, *others = commands(
            "Nodes without internet", **{"/scratch/dr17": str(root), "--workers 4": "--workers 1"}, **SMALLER
        )
        do(trials, ingest)
        server.shutdown()
    before = markers(root)
    assert before == TASKS // 2
    for command in others:
        do(trials, command)
    trials.check(root, "encode, after ingest elsewhere", "the source out of reach", before)


@pytest.mark.parametrize("how", ["adapt", "scale"])
def test_a_notebook_waits_for_jobs_in_the_queue(trials: Trials, slow: None, how: str, tmp_path: Path) -> None:
    pytest.importorskip("dask_jobqueue", reason="the extra `slurm` is not installed")
    root = trials.new_root()
    (code,) = re.findall(r"```python\n(.*?)```", section("From a notebook"), re.DOTALL)
    adapt, scale = "cluster.adapt(minimum=0, maximum=20)", "cluster.scale(jobs=20)"
    assert {adapt, scale} <= set(re.findall(r"cluster\.\w+\([^)]*\)", code))
    here = {
        adapt: "cluster.adapt(minimum=0, maximum=2)" if how == "adapt" else "cluster.scale(jobs=2)",
        '"/scratch/dr17"': f'"{root}"', '"/scratch': f'"{tmp_path}', '"gpu"': '"low"', "8GB": "2GB",
    }  # fmt: skip
    for name, instead in here.items():
        assert name in code
        code = code.replace(name, instead)
    others = trials.slurm.submit("--partition=high", "--nodes=2", "--exclusive", "--wrap=sleep 600")
    trials.slurm.wait(others, "RUNNING")
    output = tmp_path / "notebook.txt"
    with output.open("wb") as file:
        notebook = subprocess.Popen(
            [sys.executable, "-c", code], stdout=file, stderr=file, cwd=tmp_path,
            env=trials.slurm.environment | {"DASK_JOBQUEUE__SLURM__INTERFACE": "lo"},
        )  # fmt: skip
    try:
        trials.slurm.wait_until(
            lambda: "waiting: the scheduler has no workers" in output.read_text(), "it does not say so"
        )
        time.sleep(preflight.PATIENCE + 10.0)
        assert notebook.poll() is None, output.read_text()
        trials.slurm.call("scancel", others)
        if how == "adapt":
            trials.wait_for_chunks(root, 3)
            trials.slurm.submit("--partition=high", "--nodes=2", "--exclusive", "--wrap=true")
        before = markers(root)
        Archive.pace = 0.0
        assert notebook.wait(slurms.PATIENCE) == 0, output.read_text()
    finally:
        notebook.kill()
        notebook.wait()
    done = f"queued for {preflight.PATIENCE + 10:.0f} s" + (", then its workers preempted" if how == "adapt" else "")
    trials.check(root, f"notebook, {how}", done, before)


def test_a_preempted_job_is_requeued_and_resumes(trials: Trials, slow: None) -> None:
    root = trials.new_root()
    job = trials.submit(root, "--nodes=1")
    trials.wait_for_chunks(root, 3)
    trials.slurm.submit("--partition=high", "--nodes=2", "--exclusive", "--wrap=true")
    trials.slurm.wait_for_requeue(job)
    before = markers(root)
    assert before < TASKS
    Archive.pace = 0.0
    trials.slurm.wait(job, "COMPLETED")
    trials.check(root, "run", "preempted by a job of higher priority", before)
    assert "terminated; run the same command again to resume" in trials.slurm.output()


def test_a_job_at_its_time_limit_is_requeued_and_resumes(trials: Trials, slow: None) -> None:
    root = trials.new_root()
    Archive.pace = 15.0  # longer than the job may take
    job = trials.submit(root, "--nodes=1", "--time=3", "--signal=B:TERM@60")
    trials.wait_for_chunks(root, 1)
    trials.slurm.wait_for_requeue(job)
    before = markers(root)
    assert before < TASKS
    Archive.pace = 0.0
    trials.slurm.wait(job, "COMPLETED")
    trials.check(root, "run", "came to its time limit", before)


def test_blind_redshifts_of_a_preempted_job(trials: Trials, slow: None) -> None:
    catalog = targets.read_targets(str(trials.mirror / "sdss" / "spectro" / "redux" / "specObj-dr17.fits"))
    for name in ("blind", "blind-here"):
        pipeline.plan(
            trials.folder / name, targets=catalog.iloc[:SPECTRA], source=trials.source,
            models="sdss-galaxies", redshift="blind", shard=8,
        )  # fmt: skip
    Archive.pace = 0.0
    pipeline.run(trials.folder / "blind-here", serial=True)
    Archive.pace = 10.0
    job = trials.submit(trials.folder / "blind", "--nodes=1")
    trials.wait_for_chunks(trials.folder / "blind", 2)
    trials.slurm.submit("--partition=high", "--nodes=2", "--exclusive", "--wrap=true")
    trials.slurm.wait_for_requeue(job)
    before = markers(trials.folder / "blind")
    assert before < 2 * SPECTRA // 8
    Archive.pace = 0.0
    trials.slurm.wait(job, "COMPLETED")
    reference = file_hashes(trials.folder / "blind-here")
    trials.check(trials.folder / "blind", "run, blind", "preempted", before, reference, 2 * SPECTRA // 8)


@pytest.mark.parametrize("node", slurms.NODES)
def test_a_job_that_loses_a_node_is_requeued_and_resumes(trials: Trials, slow: None, node: str) -> None:
    root = trials.new_root()
    job = trials.submit(root)
    trials.wait_for_chunks(root, 3)
    trials.slurm.lose_node(node)
    try:
        trials.slurm.wait_for_requeue(job)
        before = markers(root)
        assert before < TASKS
        Archive.pace = 0.0
    finally:
        trials.slurm.start_node(node)
    trials.slurm.wait(job, "COMPLETED")
    which = "the first" if node == slurms.NODES[0] else "the second"
    trials.check(root, "run", f"{which} of its nodes lost", before)


def stand_in(folder: Path) -> Path:
    """Make an apptainer that does what it is given, and notes it."""
    command = folder / "bin" / "apptainer"
    command.parent.mkdir()
    does = [
        "#!/bin/sh",
        '[ "$1 $2 $3" = "exec --nv spender.sif" ] || exit 9',
        "shift 3",
        f'echo "$1" >>"{folder}/apptainer.txt"',
        'exec "$@"',
    ]
    command.write_text("\n".join(does))
    command.chmod(0o755)
    return command.parent


def test_a_cancelled_job_is_not_requeued(trials: Trials, slow: None) -> None:
    root = trials.new_root()
    job = trials.submit(root, "--nodes=1")
    trials.wait_for_chunks(root, 1)
    trials.slurm.call("scancel", job)
    trials.slurm.wait(job, "CANCELLED")
    time.sleep(5)
    assert trials.slurm.state(job) == "CANCELLED"
    before = markers(root)
    Archive.pace = 0.0
    image = {
        "SPENDER_IMAGE": "spender.sif",
        "PATH": f"{stand_in(trials.slurm.folder)}:{trials.slurm.environment['PATH']}",
    }
    trials.slurm.wait(trials.submit(root, "--gres=none", "--nodes=1", **image), "COMPLETED")
    trials.check(root, "run; again without GPU, in an image", "cancelled, submitted again", before)
    assert (trials.slurm.folder / "apptainer.txt").read_text().split().count("dask") == 2
