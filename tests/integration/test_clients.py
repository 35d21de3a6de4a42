"""Who works on a run in a bucket of a real S3 server, and whether that server creates objects conditionally."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Iterator

import pytest
import s3fs

from pipeline import storage
from pipeline.store import clients
from pipeline.store.clients import Presence, alive, conditional_writes
from tests import faults, s3

PATIENCE = 60.0  # seconds


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[faults.Proxy]:
    with s3.serve(tmp_path_factory.mktemp("s3")) as server, faults.between(server.endpoint) as between:
        s3.client(server)  # it answers before its volumes can be written
        with s3.as_default(server, endpoint=between.endpoint):
            yield between


@pytest.fixture
def root(proxy: faults.Proxy) -> str:
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem().mkdir(bucket)
    return f"s3://{bucket}/run"


def object_time(root: str, client: str) -> float:
    moment = storage.modified(f"{root}/clients")[f"{client}.json"]
    assert moment is not None
    return moment


def test_a_client_in_a_bucket_is_renewed_until_it_ends(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "RENEWAL", 0.5)
    with Presence(root, "run") as presence:
        first = object_time(root, presence.id)
        deadline = time.monotonic() + PATIENCE
        while object_time(root, presence.id) <= first:  # whole seconds
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert [record.id for record in alive(root)] == [presence.id]
    assert alive(root) == []
    assert storage.list_names(f"{root}/clients") == []


def test_a_look_costs_one_listing_and_a_read_for_each_client(root: str, proxy: faults.Proxy) -> None:
    assert alive(root) == []
    with Presence(root, "run"), Presence(root, "run"):
        with proxy.counting() as counts:
            assert len(alive(root)) == 2
    assert dict(counts) == {"LIST": 1, "GET": 2}


def test_a_killed_client_is_seen_by_others_until_its_object_is_old(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; from pipeline.store.clients import Presence, alive\n"
        "with Presence(sys.argv[1], 'run') as presence:\n"
        "    print(presence.id, *(record.id for record in alive(sys.argv[1], besides=presence.id)), flush=True)\n"
        "    sys.stdin.read()"
    )
    with Presence(root, "status") as own:
        with subprocess.Popen(
            [sys.executable, "-c", code, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other:
            try:
                assert other.stdout is not None
                theirs, *seen = other.stdout.readline().split()
            finally:
                other.kill()
        assert seen == [own.id]
        (record,) = alive(root, besides=own.id)
        assert (record.id, record.pid, record.command) == (theirs, other.pid, "run")
        monkeypatch.setattr(clients, "ALIVE", 2.0)
        deadline = time.monotonic() + PATIENCE
        while alive(root, besides=own.id):
            assert time.monotonic() < deadline
            own._renew()
            time.sleep(0.2)
    assert storage.list_names(f"{root}/clients") == [f"{theirs}.json"]


def test_a_bucket_that_may_only_be_read_is_noticed_at_once(root: str) -> None:
    with s3.as_reader():
        with pytest.raises(PermissionError), Presence(root, "run"):
            raise AssertionError("entered")
        assert alive(root) == []


@pytest.mark.parametrize("ignoring", [False, True])
def test_a_server_that_ignores_conditions_is_noticed(
    root: str, proxy: faults.Proxy, ignoring: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "ignores_conditions", ignoring)
    with proxy.counting() as counts:
        assert conditional_writes(root) is not ignoring
    assert dict(counts) == {"PUT": 2, "DELETE": 1}
    assert storage.list_names(storage.join(root, "clients")) == []
