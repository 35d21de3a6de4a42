"""For tests that run a survey: a checkpoint, and a planned ROOT of a few real targets."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

import pipeline
from pipeline.catalog import targets
from pipeline.cli import main as cli
from pipeline.compute.stages.tasks import Outcome
from pipeline.planning.plan import Plan
from pipeline.planning.schema import SPECTRA_VARIABLES
from pipeline.store import arrays, stores
from pipeline.store import root as runs
from spender_core.autoencoder import SpectrumAutoencoder
from spender_core.instrument import SDSS


def random_checkpoint(folder: Path, seed: int = 1, n_latent: int = 4, *, n_aux: int = 0, domain: object = None) -> Path:
    """Save an untrained autoencoder, once per folder: its numbers mean nothing, but it computes all of them.

    n_aux: 1 for one that takes the redshift. domain: the entry that says what it was trained on; None for none.
    """
    kind = f"{'-aux' if n_aux else ''}{'' if domain is None else '-domain'}"
    file = folder / f"random-{seed}-{n_latent}{kind}.pt"
    if not file.exists():
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = SpectrumAutoencoder(SDSS(), torch.logspace(3.37, 3.97, 700), n_latent=n_latent, n_aux=n_aux)
        extras = {} if domain is None else {"domain": domain}
        torch.save({"model": [model.state_dict()], "losses": None, "instruments": ["sdss"], **extras}, file)
    return file


def make_root(
    tmp_path: Path,
    mirror: Path,
    *,
    name: str = "run",
    n: int = 6,
    shard: int = 2,
    source: str | None = None,
    models: tuple[str, ...] = ("random",),
) -> tuple[str, Plan]:
    """Plan a run over the first n targets of a mirror, with untrained models of these names."""
    root = str(tmp_path / name)
    frame = targets.read_targets(str(mirror / "sdss" / "spectro" / "redux" / "specObj-dr17.fits")).iloc[:n]
    checkpoints = [f"{each}={random_checkpoint(tmp_path.parent, seed)}" for seed, each in enumerate(models)]
    made = pipeline.plan(root, targets=frame, source=source or mirror, models=checkpoints, shard=shard, retries=1)
    return root, made


def create_stores(root: str, plan: Plan) -> None:
    """Make the empty stores of all stages of a run."""
    stores.create(root, plan, [store.kind for store in stores.stores_of(root, plan)])


def read_spectra(root: str, start: int, stop: int) -> dict[str, NDArray[Any]]:
    """Read rows of the variables of a run's spectra store."""
    return arrays.read_region(arrays.spectra_url(root), SPECTRA_VARIABLES, start, stop)


class Recorder:
    """Progress that records what it is given."""

    def __init__(self) -> None:
        self.total = self.done_before = 0
        self.outcomes: list[Outcome] = []
        self.said: list[str] = []
        self.closed = False

    def start(self, total: int, done_before: int) -> None:
        self.total, self.done_before = total, done_before

    def advance(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def say(self, text: str) -> None:
        self.said.append(text)

    def close(self) -> None:
        self.closed = True


def break_file(path: Path) -> None:
    """Put a link to itself in a file's place: nobody can read it, and it is not missing - a fault of the source."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(path)


def file_hashes(root: Path) -> dict[str, str]:
    """Hash every file of a run's stores and ledger, by its path below ROOT."""
    parts = (root / "spectra.zarr", root / "encodings", root / "ledger")
    files = sorted(file for part in parts for file in part.rglob("*") if file.is_file())
    return {str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def markers(root: Path) -> int:
    """Count the chunks done in all stages of a run."""
    return sum(1 for file in (root / "ledger").glob("*/*.json") if file.stem.isdecimal())


def plan_by_command(root: Path, mirror: Path, *options: str, source: str | None = None) -> int:
    """Plan all targets of a mirror with the commands of a user; return the number of (stage, chunk) markers to come."""
    table = root.parent / "targets.parquet"
    catalog = mirror / "sdss" / "spectro" / "redux" / "specObj-dr17.fits"
    assert cli.main(["targets", str(catalog), "--where", "Z > -1", "--output", str(table)]) == 0
    checkpoint = random_checkpoint(root.parent)
    what = ["--targets", str(table), "--source", source or str(mirror), "--model", f"random={checkpoint}"]
    assert cli.main(["plan", str(root), *what, *options]) == 0
    return 2 * len(runs.read_plan(str(root)).shards())


@contextmanager
def silent_server() -> Iterator[str]:
    """Run a server that takes connections and never says a word; gives its URL."""
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listening:

        def accept() -> None:
            with suppress(OSError):  # closed at the end
                while True:
                    kept.append(listening.accept()[0])

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
            for each in kept:
                each.close()
