"""What a run in a bucket costs in requests, counted between s3fs and a real server.

The table of deploy/storage.md says these numbers; a change that makes runs dearer shows here first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import pipeline
from pipeline import storage
from pipeline.archive.quota import divide
from pipeline.catalog import targets
from pipeline.cli import main as cli
from pipeline.cli.run import open_statements
from pipeline.compute import job
from pipeline.compute.stages.tasks import Task, attempt
from pipeline.planning import schema
from pipeline.planning.plan import Generation, Plan
from pipeline.store import arrays as dataset
from pipeline.store import finalize
from pipeline.store import root as runs
from pipeline.store.template import spectra_template
from tests import faults, s3
from tests.bench import objects
from tests.running import make_root

SPECTRA, SHARD = 16, 2
CHUNKS = SPECTRA // SHARD


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[faults.Proxy]:
    with s3.serve(tmp_path_factory.mktemp("s3")) as server, faults.between(server.endpoint) as between:
        s3.client(server).create_bucket(Bucket="requests")
        with s3.as_default(server, endpoint=between.endpoint):
            yield between


@pytest.fixture(scope="module")
def finished(
    proxy: faults.Proxy, tmp_path_factory: pytest.TempPathFactory, mirror: Path
) -> tuple[str, Plan, list[tuple[str, str]]]:
    """Run a survey in the bucket; gives ROOT, its plan and the requests of the run."""
    local, plan = make_root(tmp_path_factory.mktemp("plan"), mirror, n=SPECTRA, shard=SHARD)
    root = "s3://requests/run"
    for name in ("targets.parquet", "plan.json"):
        storage.write_bytes(storage.join(root, name), storage.read_bytes(storage.join(local, name)))
    first = len(proxy.requests)
    assert cli.main(["run", root, "--serial"]) == 0
    return root, plan, proxy.requests[first:]


def test_what_a_chunk_takes(finished: tuple[str, Plan, list[tuple[str, str]]], proxy: faults.Proxy) -> None:
    """One write for each of its objects; reads of the plan, the targets, the marker and what Zarr looks at."""
    root, plan, _ = finished
    ledgers = runs.ledgers(root, plan)
    for shard in plan.shards()[1:4]:  # the first of them opens the arrays
        for ledger in ledgers:
            ledger.unmark(shard.index)
        with proxy.counting() as ingest:
            attempt(root, plan.ingest_fingerprint, Task("ingest", None, shard), divide(plan.config))
        with proxy.counting() as encode:
            attempt(root, plan.encode_fingerprint("random"), Task("encode", "random", shard), divide(plan.config))
    print("ingest", dict(ingest), "encode", dict(encode))
    assert ingest == {"PUT": len(schema.SPECTRA_VARIABLES) + 1, "GET": 6, "HEAD": 1}
    assert encode == {"PUT": len(schema.variables_of(plan.models[0].variables)) + 1, "GET": 10, "HEAD": 1}


def test_what_a_run_lists_does_not_grow_with_its_chunks(finished: tuple[str, Plan, list[tuple[str, str]]]) -> None:
    _, _, requests = finished
    counts = Counter(faults.kind(*request) for request in requests)
    print("a run", dict(counts))
    assert counts["LIST"] <= 40
    assert counts["HEAD"] <= 16 + 2 * CHUNKS  # the size of targets.parquet, of which each task reads its rows


def test_a_resume_lists_each_ledger_a_few_times(
    finished: tuple[str, Plan, list[tuple[str, str]]], proxy: faults.Proxy
) -> None:
    root, plan, _ = finished
    with proxy.counting() as looking:
        assert not job.pending(root, plan, ("ingest", "encode"), ["random"]).tasks
    assert looking == {"LIST": 2}
    with proxy.counting() as nothing:
        assert cli.main(["run", root]) == 0
    print("nothing to do", dict(nothing))
    assert nothing["LIST"] <= 17  # before and after; other clients; s3fs lists an empty folder's parent, too
    runs.ingest_ledger(root, plan).unmark(1)
    with proxy.counting() as one:
        assert cli.main(["run", root, "--serial"]) == 0
    print("one chunk", dict(one))
    assert one["LIST"] <= 20


def test_status_lists_each_ledger_once_with_its_failures(
    finished: tuple[str, Plan, list[tuple[str, str]]], proxy: faults.Proxy
) -> None:
    root, _, _ = finished
    with proxy.counting() as counts:
        assert cli.main(["status", root]) == 0
    print("status", dict(counts))
    assert counts["LIST"] <= 7  # the clients, too
    assert counts["GET"] == 2 * CHUNKS + 1  # every marker, and the plan


def test_reading_takes_few_requests(finished: tuple[str, Plan, list[tuple[str, str]]], proxy: faults.Proxy) -> None:
    root, _, _ = finished
    opened = pipeline.open_run(root).spectra()
    with proxy.counting() as spectrum:
        opened["flux"].variable[3].load()
    assert spectrum["GET"] <= 2  # the shard's index, and one chunk of it
    with proxy.counting() as redshifts:
        opened["z"].variable.load()
    assert redshifts["GET"] <= 1
    assert set(spectrum) | set(redshifts) <= {"GET"}


@pytest.mark.parametrize("way", ["open_run", "the printed line"])
def test_a_mean_restframe_takes_a_request_for_each_chunk(
    finished: tuple[str, Plan, list[tuple[str, str]]], proxy: faults.Proxy, way: str
) -> None:
    root, plan, _ = finished
    if way == "open_run":
        restframe = pipeline.open_run(root).encodings()["restframe"]
    else:
        names: dict[str, Any] = {"xr": xr}
        exec(open_statements(f"{root}/encodings/random.zarr", plan.shard), names)
        restframe = names["d"]["restframe"]
    first = len(proxy.requests)
    assert np.isfinite(restframe.mean("spectrum").to_numpy()).any()
    asked = [path for method, path in proxy.requests[first:] if method == "GET"]
    assert len(asked) == CHUNKS
    assert len(set(asked)) == CHUNKS
    first = len(proxy.requests)
    assert restframe["ra"].to_numpy().shape == restframe["spectrum"].shape
    assert len([path for method, path in proxy.requests[first:] if method == "GET" and "/ra/" in path]) == 1


def test_what_targets_that_are_added_take(
    finished: tuple[str, Plan, list[tuple[str, str]]], proxy: faults.Proxy, tmp_path: Path, mirror: Path
) -> None:
    """Both stores are described again, and nothing is read or written for a chunk that stays."""
    root, plan, _ = finished
    grown = f"{root}-grown"
    for name, content in objects(root).items():
        storage.write_bytes(storage.join(grown, name), content)
    frame = targets.read_targets(str(mirror / "sdss/spectro/redux/specObj-dr17.fits")).iloc[: SPECTRA + 3 * SHARD]
    targets.write_targets(frame, str(tmp_path / "more.parquet"))
    with proxy.counting() as counts:
        assert cli.main(["plan", grown, "--targets", str(tmp_path / "more.parquet"), "--extend"]) == 0
    print("3 chunks added", dict(counts))
    opened = pipeline.open_run(root)
    described = len(opened.spectra().variables) + len(opened.encodings().variables)
    assert counts["PUT"] <= 2 * described + 13  # each array and its values; ROOT's own objects, and probes
    assert counts["GET"] <= 16
    first = len(proxy.requests)
    assert cli.main(["run", grown, "--serial"]) == 0
    written = [path for method, path in proxy.requests[first:] if method == "PUT"]
    assert sum("/flux/c/" in path for path in written) == 3


@pytest.mark.long
def test_a_finished_survey_of_five_million_opens_with_few_requests(
    finished: tuple[str, Plan, list[tuple[str, str]]], proxy: faults.Proxy, mirror: Path
) -> None:
    """As large as a survey in its coordinates; without the data, which opening does not touch."""
    _, plan, _ = finished
    n = 5_000_000
    rows = targets.read_targets(str(mirror / "sdss/spectro/redux/specObj-dr17.fits")).iloc[:1]
    many = rows.loc[np.repeat(rows.index, n)].reset_index(drop=True)
    survey = replace(plan, generations=(Generation(n, "0" * 64),), shard=4096, chunk=32)
    url = "s3://requests/survey/spectra.zarr"
    wavelength = np.arange(plan.n_pixels, dtype=np.float32)
    dataset.create(url, *spectra_template(survey, many, wavelength))
    finalize._close(url, {})
    with proxy.counting() as counts:
        opened = xr.open_zarr(url)
    assert opened.sizes["spectrum"] == n
    assert sum(counts.values()) <= 20
    with proxy.counting() as coordinates:
        opened["z"].variable.load()
    assert coordinates["GET"] == 5
    print(dict(counts), dict(coordinates))
