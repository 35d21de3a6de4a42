from __future__ import annotations

import pickle
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextvars import copy_context
from pathlib import Path

import fsspec
import pandas as pd
import pytest

import pipeline
from pipeline import storage
from pipeline.archive.attempts import MAX_RETRY_AFTER, FetchCounters
from pipeline.archive.source import Source, SourceError
from pipeline.catalog import targets
from pipeline.config import StorageConfig
from pipeline.errors import ConfigError
from pipeline.surveys.sdss.files import read_spec
from pipeline.surveys.sdss.layouts import spec_lite_path
from pipeline.surveys.sdss.survey import SDSS
from tests.faulty_server import Faults, QuietServer, content_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(mirror: Path) -> Iterator[str]:
    """Serve the release root with `python -m http.server` on a free port."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(mirror)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        announced = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert announced is not None
        yield announced[0]
    finally:
        process.terminate()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


def real_paths(catalog: Path) -> list[str]:
    return SDSS.paths("spec-lite", targets.read_targets(str(catalog))["target"])


# --- settings ---


@pytest.mark.parametrize(
    "wrong", [{"concurrency": 0}, {"retries": -1}, {"per_second": 0.0}, {"per_second": float("nan")}]
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, object]):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Source("/data", **wrong)  # type: ignore[arg-type]


def test_a_network_is_asked_for_many_files_at_once_and_a_disk_for_few():
    assert Source("https://data.sdss.org/sas/dr17").at_once == Source("s3://bucket/dr17").at_once == 64
    assert Source("/data/dr17").at_once == Source("file:///data/dr17").at_once == 8
    assert Source("s3://bucket/dr17", concurrency=3).at_once == 3


# --- fetching ---


@pytest.mark.parametrize("scheme", ["plain", "file", "http", "memory"])
def test_files_come_in_the_order_asked_for_from_any_source(mirror: Path, catalog: Path, server: str, scheme: str):
    memory = f"memory://{uuid.uuid4().hex}"
    url = {"plain": str(mirror), "file": f"file://{mirror}/", "http": server, "memory": memory}[scheme]
    paths = real_paths(catalog)[::-1]
    if scheme == "memory":
        for path in paths:
            with fsspec.open(f"{memory}/{path}", "wb") as file:
                file.write((mirror / path).read_bytes())
    found = Source(url).fetch(paths)
    assert found == [(mirror / path).read_bytes() for path in paths]


def test_the_catalog_beside_the_files_is_read_over_http_too(catalog: Path, mirror: Path, server: str):
    url = f"{server}/{catalog.relative_to(mirror)}"  # this server knows no byte ranges
    pd.testing.assert_frame_equal(targets.read_targets(url), targets.read_targets(str(catalog)))
    with pytest.raises(ConfigError, match="a file that exists"):
        targets.read_targets(f"{server}/nowhere.fits")


def test_a_catalog_that_is_refused_or_unreachable_is_a_mistake_with_a_message(faulty: str):
    with pytest.raises(ConfigError, match="a file that can be read.*403"):
        targets.read_targets(f"{faulty}/403/99/catalog.fits")


@pytest.mark.parametrize("scheme", ["file", "http", "memory"])
def test_a_missing_file_is_returned_in_its_place(mirror: Path, catalog: Path, server: str, scheme: str):
    url = {"file": str(mirror), "http": server, "memory": f"memory://{uuid.uuid4().hex}"}[scheme]
    real = real_paths(catalog)[0]
    missing = spec_lite_path("26", 1, 2, 3)
    found = Source(url, retries=0).fetch([missing, real, missing])
    assert [isinstance(item, FileNotFoundError) for item in found] == [True, scheme == "memory", True]
    assert missing in str(found[0])
    if scheme != "memory":
        assert isinstance(found[1], bytes)
        ids = [int(part) for part in real[:-5].split("-")[-3:]]
        assert read_spec(found[1]).ids.items() >= dict(zip(("plate", "mjd", "fiberid"), ids, strict=True)).items()


def test_a_stream_gives_the_same_and_does_not_run_far_ahead(faulty: str):
    source = Source(faulty, concurrency=2)
    paths = [f"ok/0/{i}" for i in range(60)]
    stream = source.stream(iter(paths))
    first = next(stream)
    time.sleep(0.2)
    assert len(Faults.seen) <= 10
    assert [first, *stream] == source.fetch(paths) == [content_of(f"/{path}") for path in paths]


def test_a_stream_that_is_left_stops_fetching(faulty: str):
    stream = Source(faulty, concurrency=1).stream(f"slow/99/{i}" for i in range(60))
    next(stream)
    stream.close()
    time.sleep(0.5)
    assert len(Faults.seen) <= 4


def test_a_root_without_any_of_the_files_is_refused_before_a_run(mirror: Path, catalog: Path, faulty: str):
    paths = real_paths(catalog)[:3]
    Source(str(mirror)).require_some([spec_lite_path("26", 1, 2, 3), *paths], SDSS.root)
    with pytest.raises(
        ConfigError, match="the folder that holds sdss/.*it has none of the 3 files tried, such as sdss/spectro"
    ):
        Source(str(mirror / "sdss")).require_some(paths, SDSS.root)
    with pytest.raises(ConfigError, match="attempt 1"):
        Source(faulty.replace("//", "//user:secret@"), retries=0).require_some(["503/99/name"], SDSS.root)


def test_nothing_to_fetch_is_no_work():
    assert Source("/nowhere").fetch([]) == []


def test_no_more_files_are_in_flight_than_allowed(faulty: str):
    paths = [f"slow/99/{i}" for i in range(12)]
    Source(faulty, concurrency=3).fetch(paths)
    assert 1 < Faults.most <= 3


@pytest.mark.parametrize("fault", ["503", "500", "429", "408", "reset", "cut"])
def test_a_transient_fault_is_retried(faulty: str, fault: str):
    path = f"{fault}/2/name"
    assert Source(faulty, retries=2, backoff=0.01).fetch([path]) == [content_of(f"/{path}")]
    assert Faults.seen == {f"/{path}": 3}


def test_traffic_is_counted_with_its_repeats(faulty: str):
    counters = FetchCounters()
    paths = ["503/2/a", "ok/0/b", "404/9/c"]
    contents = list(Source(faulty, retries=2, backoff=0.01).stream(paths, counters))
    given = sum(len(content) for content in contents if isinstance(content, bytes))
    assert counters == FetchCounters(fetched=given, requests=5, retries=2)
    assert given == len(content_of("/503/2/a")) + len(content_of("/ok/0/b"))


def test_what_a_cache_gives_is_no_traffic(faulty: str, tmp_path: Path):
    source = Source(faulty, cache=str(tmp_path))
    for expected in (1, 0):
        counters = FetchCounters()
        assert len(list(source.stream(["ok/0/a"], counters))) == 1
        assert counters.requests == expected


def test_a_connection_that_says_nothing_is_given_up_and_retried(faulty: str):
    started = time.monotonic()
    assert Source(faulty, retries=1, backoff=0.01, timeout=0.3).fetch(["hang/1/name"]) == [content_of("/hang/1/name")]
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("fault", ["503", "reset", "cut"])
def test_a_fault_that_stays_fails_with_the_file_named(faulty: str, fault: str):
    with pytest.raises(SourceError, match=rf"^{fault}/99/name: .*\(attempt 3\)"):
        Source(faulty, retries=2, backoff=0.01).fetch([f"{fault}/99/name"])


@pytest.mark.parametrize("status", ["403", "401", "400"])
def test_a_refusal_is_not_retried_and_not_taken_for_a_missing_file(faulty: str, status: str):
    with pytest.raises(SourceError, match=status):
        Source(faulty, backoff=0.01).fetch([f"{status}/99/name"])
    assert Faults.seen == {f"/{status}/99/name": 1}


def test_one_failure_gives_up_the_rest(faulty: str):
    paths = ["503/99/name", *(f"slow/99/{i}" for i in range(50))]
    with pytest.raises(SourceError):
        Source(faulty, concurrency=2, retries=0).fetch(paths)
    assert len(Faults.seen) < 10


def test_nobody_listening_is_a_fault_of_the_source():
    with QuietServer(("127.0.0.1", 0), Faults) as http:
        url = f"http://127.0.0.1:{http.server_address[1]}"
    with pytest.raises(SourceError, match="attempt 2"):
        Source(url, retries=1, backoff=0.01).fetch(["name"])


def test_a_folder_in_a_files_place_is_no_spectrum_and_no_fault(tmp_path: Path):
    (tmp_path / "name").mkdir()
    assert Source(str(tmp_path)).fetch(["name"]) == [b""]


def test_an_unreadable_local_file_is_a_fault_and_not_missing(tmp_path: Path):
    (tmp_path / "folder").write_bytes(b"a file where a folder should be")
    with pytest.raises(SourceError, match="NotADirectoryError"):
        Source(str(tmp_path)).fetch(["folder/name"])


@pytest.mark.parametrize(("url", "shown"), [("foo://a/b", "foo"), ("s3://bucket/dr17", "credentials")])
def test_a_source_that_nobody_can_open_is_refused_at_once(url: str, shown: str, monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    started = time.monotonic()
    with pytest.raises(ConfigError, match=shown):
        Source(url, backoff=10).require_some(["name"], SDSS.root)
    assert time.monotonic() - started < 8  # no attempt was waited for


# --- gently ---


def test_requests_name_the_project(faulty: str):
    Source(faulty).fetch(["ok/0/name"])
    assert Faults.agents == {f"spender-pipeline/{pipeline.__version__}"}


def test_pauses_that_the_server_asks_for_use_up_no_attempts(faulty: str):
    assert Source(faulty, retries=0, backoff=0.01).fetch(["busy1/3/name"]) == [content_of("/busy1/3/name")]


def test_pauses_end_when_their_sum_is_too_long(faulty: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.archive.attempts.MAX_RETRY_AFTER", 2.5)
    with pytest.raises(SourceError, match=r"asks for a pause of 1 s \(attempt 3\)"):
        Source(faulty, retries=0, backoff=0.01).fetch(["busy1/99/name"])


def test_a_server_that_asks_for_too_long_a_pause_fails_the_file(faulty: str):
    path = f"busy{MAX_RETRY_AFTER + 1:.0f}/9/name"
    with pytest.raises(SourceError, match=r"asks for a pause of 601 s \(attempt 1\)"):
        Source(faulty).fetch([path])


# --- a mirror as a by-product ---


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_a_cache_is_filled_and_then_asked_instead(faulty: str, tmp_path: Path, scheme: str):
    cache = str(tmp_path / "mirror") if scheme == "file" else f"memory://{uuid.uuid4().hex}"
    source = Source(faulty, cache=cache)
    paths = ["ok/0/a", "404/9/b", "ok/0/c"]
    first, again = source.fetch(paths), source.fetch(paths)
    assert first[::2] == again[::2] == [content_of("/ok/0/a"), content_of("/ok/0/c")]
    assert Faults.seen == {"/ok/0/a": 1, "/404/9/b": 2, "/ok/0/c": 1}  # that a file is missing is asked again
    assert Source(cache).fetch(["ok/0/a"]) == [content_of("/ok/0/a")]  # the cache is a mirror


def test_the_cache_is_reached_as_the_runs_own_plan_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A worker may serve two runs: another one's tables, read later, are not for this one's threads."""
    (tmp_path / "a").write_bytes(content_of("/ok/0/a"))
    endpoints: list[object] = []

    def reached(url: str, *content: bytes) -> bytes:
        endpoints.append(storage._options(url)["endpoint_url"])
        if content:
            return b""
        raise FileNotFoundError(url)

    def of(endpoint: str) -> list[StorageConfig]:
        return [StorageConfig(prefix="s3://cache", endpoint=endpoint)]

    def do() -> None:
        storage.configure(of("http://ours"))
        other = threading.Thread(target=storage.configure, args=(of("http://anothers"),))
        other.start()
        other.join()
        monkeypatch.setattr(storage, "read_bytes", reached)
        monkeypatch.setattr(storage, "write_bytes", reached)
        Source(str(tmp_path), cache="s3://cache").fetch(["a"])

    copy_context().run(do)
    storage.configure(())
    assert endpoints == ["http://ours", "http://ours"]


def test_a_cut_file_never_reaches_the_cache(faulty: str, tmp_path: Path):
    with pytest.raises(SourceError):
        Source(faulty, cache=str(tmp_path), retries=1, backoff=0.01).fetch(["cut/9/name"])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_is_no_fits_file_is_asked_for_again(tmp_path: Path, mirror: Path):
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "name").write_bytes(b"cut by who copied it")
    source = Source(str(tmp_path / "mirror"), cache=str(tmp_path / "cache"))
    assert source.fetch(["name"]) == [b"cut by who copied it"]
    (tmp_path / "mirror" / "name").write_bytes(b"SIMPLE  = mended")
    assert source.fetch(["name"]) == [b"SIMPLE  = mended"]


def test_looking_whether_a_source_is_right_fills_no_cache_and_is_content_with_one(faulty: str, tmp_path: Path):
    source = Source(faulty, cache=str(tmp_path))
    source.require_some(["ok/0/name"], SDSS.root)
    assert list(tmp_path.iterdir()) == []
    source.fetch(["ok/0/name"])
    Source("http://127.0.0.1:9", retries=0, cache=str(tmp_path)).require_some(["ok/0/name"], SDSS.root)


def test_a_web_page_is_no_file(faulty: str, tmp_path: Path):
    page = "page/2/name"
    source = Source(faulty, backoff=0.01, cache=str(tmp_path))
    assert source.fetch([page]) == [content_of(f"/{page}")]  # a maintenance page that goes away
    with pytest.raises(SourceError, match="web page instead of the file"):
        Source(faulty, backoff=0.01, retries=1).fetch(["page/99/name"])
    with pytest.raises(ConfigError, match="web page instead of the file"):
        Source(faulty, backoff=0.01).require_some(["page/98/name"], SDSS.root)


def test_looking_whether_a_source_is_right_asks_only_for_the_files_beginnings(faulty: str):
    Source(faulty).require_some(["ok/0/a", "404/9/b"], SDSS.root)
    assert Faults.ranges == {"bytes=0-79"}


def test_credentials_in_a_url_stay_out_of_messages(faulty: str):
    url = faulty.replace("http://", "http://user:secret@")
    with pytest.raises(SourceError) as caught:
        Source(url, retries=0).fetch(["503/99/name?signature=secret"])
    assert "secret" not in str(caught.value).split(": ", 1)[1]


def test_errors_travel_between_processes():
    error = pickle.loads(pickle.dumps(SourceError("a/b: TimeoutError (attempt 5)")))
    assert str(error) == "a/b: TimeoutError (attempt 5)"
