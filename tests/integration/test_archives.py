"""Archives that answer badly: a fault that passes costs nothing, one that stays costs its own spectrum, if any."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest

import pipeline
from pipeline.catalog import targets
from pipeline.spectra.quality import Quality
from pipeline.store import arrays
from pipeline.store.root import ingest_ledger, read_plan
from pipeline.surveys.sdss.survey import SDSS
from tests import faults, ill_archive, s3
from tests.bench import RUNS
from tests.ill_archive import IllArchive
from tests.running import file_hashes, random_checkpoint, silent_server

FEW, SHARD, VICTIM = 30, 10, 13
# fault: the bit that it leaves where it stays, and a word of the reason
LASTING = {
    "401": (Quality.NO_FILE, "401"),
    "403": (Quality.NO_FILE, "403 Forbidden"),
    "410": (Quality.NO_FILE, "the source has no file"),
    "429": (Quality.BAD_FILE, "429"),
    "503": (Quality.BAD_FILE, "503 Service Unavailable (4 attempts)"),
    "empty": (Quality.BAD_FILE, "empty file"),
    "halved": (Quality.BAD_FILE, "truncated"),
    "page": (Quality.BAD_FILE, "web page"),
    "half-gzipped": (Quality.BAD_FILE, "a compressed file, truncated"),
}
HARMLESS = ("gzipped", "gzipped and said", "plain and said gzip")
PASSING = tuple(fault for fault, (bit, _) in LASTING.items() if bit is Quality.BAD_FILE)


@pytest.fixture
def archive(mirror: Path) -> Iterator[IllArchive]:
    with ill_archive.serve(mirror) as serving:
        yield serving


@pytest.fixture(scope="module")
def frame(catalog: Path) -> pd.DataFrame:
    return targets.read_targets(str(catalog))


@pytest.fixture(scope="module")
def undisturbed(mirror: Path, frame: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Ingest and encode the first targets, and all of them, from the folder."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for count in (FEW, len(frame)):
        plan(folder / str(count), frame[:count], mirror)
        pipeline.run(folder / str(count), serial=True, progress=False)
    return {count: folder / str(count) for count in (FEW, len(frame))}


def plan(root: Path, rows: pd.DataFrame, source: Path | str, cache: Path | None = None, retries: int = 2) -> None:
    models = [f"random={random_checkpoint(root.parent)}"]
    pipeline.plan(root, targets=rows, source=source, models=models, shard=SHARD, retries=retries, cache=cache)


def run(root: Path, **options: object) -> None:
    pipeline.run(root, serial=True, progress=False, **options)  # type: ignore[arg-type]


def quality(root: Path, count: int) -> np.ndarray:
    return arrays.read_region(arrays.spectra_url(str(root)), ["quality"], 0, count)["quality"]


def reasons(root: Path) -> dict[str, str]:
    ledger = ingest_ledger(str(root), read_plan(str(root)))
    return {row: why for each in ledger.records(ledger.done()).values() for row, why in each.get("reasons", {}).items()}


def end_of(frame: pd.DataFrame, row: int = VICTIM) -> str:
    return SDSS.paths("spec-lite", [frame["target"].iloc[row]])[0]


def check_fault(
    archive: IllArchive, frame: pd.DataFrame, reference: Path, root: Path, fault: str, lasting: bool, cache: Path | None
) -> None:
    """Run with a fault of one file: it costs exactly that spectrum, or nothing; in the end nothing differs."""
    count = len(frame)
    archive.spoiled = {end_of(frame): (fault, None if lasting else 2)}
    plan(root, frame, archive.url, cache)
    run(root)
    found, expected = quality(root, count), quality(reference, count)
    if lasting and fault in LASTING:
        bit, word = LASTING[fault]
        assert found[VICTIM] == bit
        assert word in reasons(root)[str(VICTIM)]
        np.testing.assert_array_equal(np.delete(found, VICTIM), np.delete(expected, VICTIM))
    elif fault in (*PASSING, *HARMLESS):
        assert file_hashes(root) == file_hashes(reference)
    if cache is not None:
        kept = [file for file in cache.rglob("*") if file.is_file()]
        assert all(file.read_bytes() == (archive.folder / file.relative_to(cache)).read_bytes() for file in kept)
        assert len(kept) == count - bool(reasons(root))
    archive.heal()
    run(root, retry=["no_file", "bad_file"])
    assert file_hashes(root) == file_hashes(reference)


@pytest.mark.parametrize("fault", [*LASTING, *HARMLESS])
def test_a_fault_that_stays_costs_its_own_spectrum(
    archive: IllArchive, frame: pd.DataFrame, undisturbed: dict[int, Path], tmp_path: Path, fault: str
) -> None:
    check_fault(archive, frame[:FEW], undisturbed[FEW], tmp_path / "run", fault, True, tmp_path / "cache")


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_costs_nothing(
    archive: IllArchive, frame: pd.DataFrame, undisturbed: dict[int, Path], tmp_path: Path, fault: str
) -> None:
    check_fault(archive, frame[:FEW], undisturbed[FEW], tmp_path / "run", fault, False, None)


def in_turn() -> list[tuple[str, bool, bool]]:
    """Give every fault with one of (lasting, cached) in turn; SPENDER_FAULT_RUNS=2 with all four."""
    kinds = list(product([False, True], [False, True]))
    faults = [*LASTING, *HARMLESS]
    return [(each, *kind) for i, each in enumerate(faults) for kind in (kinds if RUNS > 1 else [kinds[i % len(kinds)]])]


@pytest.mark.long
@pytest.mark.parametrize(("fault", "lasting", "cached"), in_turn())
def test_all_real_spectra_from_an_ill_archive(
    archive: IllArchive,
    frame: pd.DataFrame,
    undisturbed: dict[int, Path],
    tmp_path: Path,
    fault: str,
    lasting: bool,
    cached: bool,
) -> None:
    cache = tmp_path / "cache" if cached else None
    check_fault(archive, frame, undisturbed[len(frame)], tmp_path / "run", fault, lasting, cache)


@pytest.mark.parametrize(("first", "then"), [("503", "403"), ("halved", "halved"), ("gzipped", "401")])
def test_an_archive_that_gives_nothing_any_more_costs_no_spectrum(
    archive: IllArchive, frame: pd.DataFrame, undisturbed: dict[int, Path], tmp_path: Path, first: str, then: str
) -> None:
    """From the 60th spectrum on, longer than the retries: whatever it says, it says so of the files that came, too."""
    count, root = len(frame), tmp_path / "run"
    archive.everything, archive.after = [(first, 25), (then, 1)], 59
    plan(root, frame, archive.url)
    with pytest.raises(pipeline.ChunksFailed) as caught:
        run(root)
    assert len(archive.asked) >= 60
    assert 0 < len([name for name in caught.value.reasons if name.startswith("ingest")]) < count // SHARD + 1
    assert not reasons(root)
    assert not (quality(root, count) & np.uint32(Quality.NO_FILE | Quality.BAD_FILE)).any()
    archive.heal()
    run(root)
    assert file_hashes(root) == file_hashes(undisturbed[count])


def test_a_task_alone_asks_for_a_file_of_preflight(
    archive: IllArchive, frame: pd.DataFrame, undisturbed: dict[int, Path], tmp_path: Path
) -> None:
    """The first files of the first chunk are forbidden: nothing of this task has come yet."""
    archive.spoiled = {end_of(frame, row): ("403", None) for row in (0, 1)}
    plan(tmp_path / "run", frame[:FEW], archive.url)
    run(tmp_path / "run", stages=["ingest"])
    assert set(reasons(tmp_path / "run")) == {"0", "1"}


def test_a_poisoned_cache_is_healed(
    archive: IllArchive, frame: pd.DataFrame, undisturbed: dict[int, Path], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    for row, content in enumerate([b"", b"<html>", (archive.folder / end_of(frame, 2)).read_bytes()[:100_000]]):
        file = cache / end_of(frame, row)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    plan(tmp_path / "run", frame[:FEW], archive.url, cache)
    run(tmp_path / "run")
    assert file_hashes(tmp_path / "run") == file_hashes(undisturbed[FEW])
    for row in range(3):
        assert (cache / end_of(frame, row)).read_bytes() == (archive.folder / end_of(frame, row)).read_bytes()


def test_a_run_without_most_of_its_files_ends_and_asks_again(
    archive: IllArchive, frame: pd.DataFrame, undisturbed: dict[int, Path], tmp_path: Path
) -> None:
    root = tmp_path / "run"
    archive.spoiled = {end_of(frame, row): ("404", None) for row in range(8, FEW - 2)}
    plan(root, frame[:FEW], archive.url)
    with pytest.raises(
        pipeline.ConfigError, match="20 of 30 spectra have no file in http.*the source has no file of it"
    ):
        run(root)
    ledger = ingest_ledger(str(root), read_plan(str(root)))
    assert ledger.done() == set()  # each chunk has such a spectrum
    run(root, accept_missing=True)
    assert len(reasons(root)) == 20
    run(root)  # judged once
    archive.heal()
    run(root, retry=["no_file"])
    assert file_hashes(root) == file_hashes(undisturbed[FEW])


@pytest.fixture(scope="module")
def bucket(
    mirror: Path, frame: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[faults.Proxy, str]]:
    """Keep some of the spectra on a real S3 server, behind a proxy that refuses when it is told to."""
    with s3.serve(tmp_path_factory.mktemp("s3")) as server, faults.between(server.endpoint) as proxy:
        s3.client(server).create_bucket(Bucket="archive")
        with s3.as_default(server, endpoint=proxy.endpoint):
            source = "s3://archive/sas/dr17"
            for row in range(FEW):
                path = end_of(frame, row)
                with fsspec.open(f"{source}/{path}", "wb") as file:
                    file.write((mirror / path).read_bytes())
            yield proxy, source


@pytest.mark.parametrize(("refusal", "code"), [("expired", "ExpiredToken"), ("skewed", "RequestTimeTooSkewed")])
def test_what_s3_says_of_the_key_is_held_against_no_spectrum(
    bucket: tuple[faults.Proxy, str],
    frame: pd.DataFrame,
    undisturbed: dict[int, Path],
    tmp_path: Path,
    refusal: str,
    code: str,
) -> None:
    proxy, source = bucket
    plan(tmp_path / "run", frame[:FEW], source)
    with pytest.raises(pipeline.ConfigError, match=f"release root.*{code}"), proxy.spoiling(refusal, 1.0):
        run(tmp_path / "run")
    with pytest.raises(pipeline.ChunksFailed, match="failed") as caught, proxy.spoiling(refusal, 1.0, after=FEW + 12):
        run(tmp_path / "run")
    assert all(code in reason for name, reason in caught.value.reasons.items() if name.startswith("ingest"))
    assert not reasons(tmp_path / "run")
    run(tmp_path / "run")
    assert file_hashes(tmp_path / "run") == file_hashes(undisturbed[FEW])


def test_a_403_of_s3_is_explained(bucket: tuple[faults.Proxy, str], frame: pd.DataFrame, tmp_path: Path) -> None:
    proxy, source = bucket
    plan(tmp_path / "run", frame[:FEW], source)
    with (
        pytest.raises(pipeline.ConfigError, match="AccessDenied: .*allow it s3:ListBucket"),
        proxy.spoiling("denied", 1.0),
    ):
        run(tmp_path / "run")


def test_no_bucket_is_no_archive_without_files(
    bucket: tuple[faults.Proxy, str], frame: pd.DataFrame, tmp_path: Path
) -> None:
    plan(tmp_path / "run", frame[:FEW], "s3://nowhere/sas/dr17")
    with pytest.raises(pipeline.ConfigError, match="NoSuchBucket"):
        run(tmp_path / "run")


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_a_server_that_never_answers_is_given_up_within_three_minutes(
    frame: pd.DataFrame, tmp_path: Path, scheme: str
) -> None:
    """By every verb; side by side, since all that they do is wait."""
    with silent_server() as endpoint, s3.as_default(s3.Server(endpoint)):
        url = endpoint if scheme == "http" else "s3://bucket"
        root = tmp_path / "run"
        plan(root, frame[:FEW], f"{url}/sas/dr17", retries=10)
        calls: dict[str, Callable[[], object]] = {
            "targets": lambda: pipeline.select_targets(f"{url}/catalog.fits"),
            "plan": lambda: pipeline.plan(tmp_path / "other", targets=f"{url}/targets.parquet", source=url),
            "run": lambda: run(root),
            "status": lambda: pipeline.status(f"{url}/run"),
            "make_batch": lambda: pipeline.make_batch(tmp_path, (266, 51630, 486), source=f"{url}/sas/dr17"),
        }
        started = time.monotonic()
        with ThreadPoolExecutor(len(calls)) as pool:
            ends = {verb: pool.submit(call) for verb, call in calls.items()}
            for verb, end in ends.items():
                assert isinstance(end.exception(), (pipeline.ConfigError, OSError)), verb
        assert time.monotonic() - started < 180


@pytest.mark.long
def test_a_server_that_falls_silent_costs_no_spectrum(
    archive: IllArchive, frame: pd.DataFrame, undisturbed: dict[int, Path], tmp_path: Path
) -> None:
    archive.everything, archive.after = [("silent", 1)], FEW - 3
    plan(tmp_path / "run", frame[:FEW], archive.url, retries=10)
    started = time.monotonic()
    with pytest.raises(pipeline.ChunksFailed):
        run(tmp_path / "run")
    assert time.monotonic() - started < 180
    assert not reasons(tmp_path / "run")
    archive.heal()
    run(tmp_path / "run")
    assert file_hashes(tmp_path / "run") == file_hashes(undisturbed[FEW])
