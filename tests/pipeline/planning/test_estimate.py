from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.errors import RefusedError
from pipeline.planning import estimate as module
from pipeline.planning.estimate import Estimate, estimate, lines, require_space
from pipeline.planning.model import ModelConfig
from pipeline.planning.partition import Shard
from pipeline.planning.plan import Generation, Plan
from pipeline.planning.stages import Kind
from tests.planner import model, survey

INGEST: Kind = ("ingest", None)

VARIABLES = ("latents", "restframe", "chi2", "n_pixels", "amplitude")
# Bytes per spectrum: 3921 pixels of flux and ivar, norm and quality; 7000 bins, 6 latents, three values and quality.
SPECTRA = 3921 * 4 * (0.78 + 0.65) + 8
ENCODINGS = 7000 * 4 * 0.73 + 6 * 4 + 16


def made(n: int, shard: int, models: Sequence[ModelConfig] = (), **settings: object) -> Plan:
    plan = Plan(config=survey(**settings), generations=(Generation(n, "ab" * 32),), shard=shard, chunk=shard)
    for each in models:
        plan = plan.with_model(each)
    return plan


def never(shard: Shard) -> Sequence[str]:
    raise AssertionError(f"the keys of chunk {shard.index} are not needed")


def of_plates(fibers: int) -> Callable[[Shard], Sequence[str]]:
    """Give the keys of targets of which each plate has so many, in order."""
    return lambda shard: [f"26/{300 + i // fibers}-51600-{1 + i % fibers}" for i in range(shard.start, shard.stop)]


def test_five_million_spectra() -> None:
    found = estimate(made(5_000_000, 4096, [model(variables=VARIABLES)], max_requests_per_second=50), never)
    assert (found.spectra, found.requests, found.fetch_bytes) == (5_000_000, 5_000_000, 1_250_000_000_000)
    assert found.store_bytes == pytest.approx(5e6 * 42_916.12)
    assert (found.seconds_fetch, found.per_second, found.seconds_encode) == (100_000, 50, 31_250)
    assert lines(found) == [
        "about 5,000,000 requests, up to 1.25 TB to fetch, about 215 GB to store",
        "about 28 h to fetch at 50 per second; encoding takes about 8.7 h of one CPU core",
    ]


def test_a_plate_is_fetched_once_by_each_chunk_that_has_some_of_it() -> None:
    plan = made(10, 4, layout="spPlate")
    # chunks of rows 0-3, 4-7 and 8-9; plates of rows 0-2, 3-5, 6-8 and 9: two files each
    assert estimate(plan, of_plates(3)).requests == 6
    assert estimate(plan, of_plates(10)).requests == 3
    # plates that take turns are fetched once, too
    turns = estimate(plan, lambda shard: [f"26/{300 + i % 2}-51600-1" for i in range(shard.start, shard.stop)])
    assert (turns.requests, turns.fetch_bytes) == (6, 6 * 130_000_000)


def test_the_files_of_a_large_survey_are_counted_in_some_of_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOKED_AT", 200)
    asked: list[int] = []

    def keys(shard: Shard) -> Sequence[str]:
        asked.append(shard.index)
        return of_plates(2)(shard)

    assert estimate(made(996, 10, layout="spPlate"), keys).requests == 498
    assert asked == list(range(0, 100, 5))


def test_the_rate_is_left_out_where_a_worker_is_slower_than_that() -> None:
    free = estimate(made(4000, 100), never)
    assert (free.seconds_fetch, free.per_second) == (10, None)  # 1 GB at 100 MB/s
    assert lines(free)[1] == "at least 10 s to fetch by one worker process"
    quick = estimate(made(4000, 100, max_requests_per_second=401), never)
    assert (quick.seconds_fetch, quick.per_second) == (10, None)
    slow = estimate(made(4000, 100, max_requests_per_second=399), never)
    assert slow.seconds_fetch == pytest.approx(4000 / 399)
    assert slow.per_second == 399


def test_redshifts_and_fits_take_longer_than_encoding_alone() -> None:
    def seconds(**choices: Any) -> float:
        of_basis = {"basis": "cd" * 32, "redshift_range": (0.0, 0.5)}
        chosen = replace(model(), **{"variables": ("latents",), **of_basis, **choices})
        return estimate(made(3200, 320, [chosen]), never).seconds_encode

    alone = seconds()
    assert alone == 20
    assert seconds(redshift="blind") == 2 * alone
    assert seconds(redshift="blind", variables=("latents", "latents_fit")) == 5 * alone


@pytest.mark.parametrize(
    ("variables", "stored"),
    [
        (("latents",), 6 * 4 + 4),
        (("latents", "reconstruction", "chi2"), 3921 * 4 * 0.73 + 6 * 4 + 8),
        (VARIABLES, ENCODINGS),
    ],
)
def test_a_model_stores_its_variables_and_its_quality(variables: tuple[str, ...], stored: float) -> None:
    plan = made(1000, 100, [model(variables=variables)])
    assert estimate(plan, never).store_bytes == pytest.approx(1000 * (SPECTRA + stored), abs=1)
    other = plan.with_model(model(name="other", n_latent=10, variables=["latents"]))
    assert estimate(other, never).store_bytes == pytest.approx(1000 * (SPECTRA + stored + 44), abs=1)
    assert estimate(other, never).seconds_encode == 2 * 1000 / 160


def test_the_grid_decides_how_much_is_stored() -> None:
    on_boss = estimate(made(1000, 100, instrument="boss"), never)
    assert on_boss.store_bytes == pytest.approx(1000 * (4686 * 4 * 1.43 + 8), abs=1)


def test_only_what_is_pending_counts() -> None:
    plan = made(250, 100, [model(variables=VARIABLES)])
    first, _, last = plan.shards()
    added = estimate(plan, never, {("encode", "m"): [first, last]})
    assert (added.spectra, added.requests, added.fetch_bytes, added.seconds_fetch) == (150, 0, 0, 0)
    assert added.store_bytes == pytest.approx(150 * ENCODINGS, abs=1)
    assert lines(added) == ["nothing to fetch, about 3.07 MB to store", "encoding takes about a second of one CPU core"]
    again = estimate(plan, never, {INGEST: [last], ("encode", "m"): [first, last]})
    assert (again.spectra, again.requests) == (150, 50)
    assert again.store_bytes == pytest.approx(50 * SPECTRA + 150 * ENCODINGS, abs=1)
    nothing = estimate(plan, never, {INGEST: []})
    assert (nothing.spectra, nothing.store_bytes, lines(nothing)) == (0, 0, [])


SOME = Estimate(10, 10, 10**6, 5 * 10**9, 90.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.04, "2 s"), (89.4, "89 s"), (90, "1.5 min"), (5399, "90 min"), (5400, "1.5 h"), (36e5, "1,000 h")],
)
def test_times_are_written_in_units_that_fit(seconds: float, text: str) -> None:
    assert lines(replace(SOME, seconds_fetch=seconds))[1] == f"about {text} to fetch at 1 per second"


def test_one_request_is_no_plural() -> None:
    assert lines(replace(SOME, requests=1))[0] == "about 1 request, up to 1 MB to fetch, about 5 GB to store"


def disk(monkeypatch: pytest.MonkeyPatch, free: int) -> list[str]:
    """Give a disk so many free bytes; return the places that are looked at."""
    seen: list[str] = []

    def usage(place: object) -> SimpleNamespace:
        seen.append(str(place))
        return SimpleNamespace(free=free)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    return seen


def test_a_disk_too_small_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = tmp_path / "not" / "there"
    seen = disk(monkeypatch, 4_900_000_000)
    with pytest.raises(RefusedError) as error:
        require_space(str(root), SOME)
    assert error.value.key == "ROOT"
    assert str(error.value) == (
        f"the disk of {root} has 4.9 GB free, and the run stores about 5 GB; "
        "choose a larger disk or a bucket, or leave out variables with --variables"
    )
    assert seen == [str(tmp_path)]


def test_a_disk_that_holds_the_run_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = disk(monkeypatch, 5_000_000_000)
    require_space(f"file://{tmp_path}", SOME)
    monkeypatch.chdir(tmp_path)
    require_space("run", SOME)
    assert seen == [str(tmp_path), str(tmp_path)]


def test_buckets_are_not_asked_for_their_space(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = disk(monkeypatch, 0)
    require_space("s3://bucket/run", SOME)
    assert seen == []
