from __future__ import annotations

import base64
import http.server
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline import disk, storage
from pipeline.config import StorageConfig
from pipeline.errors import ConfigError

URLS = ["local", "file", "memory"]


@pytest.fixture(params=URLS)
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give an empty folder on each kind of storage that needs no server."""
    return {"local": str(tmp_path), "file": f"file://{tmp_path}", "memory": f"memory://{tmp_path.name}"}[request.param]


@pytest.mark.parametrize(
    ("url", "parts", "joined"),
    [
        ("/data/run", ("plan.json",), "/data/run/plan.json"),
        ("/data/run/", ("a/", "/b"), "/data/run/a/b"),
        ("s3://bucket", ("x",), "s3://bucket/x"),
        ("memory://", ("x",), "memory:///x"),
        ("demo", ("x", "y"), "demo/x/y"),
        ("/", ("x",), "/x"),
    ],
)
def test_join_puts_one_slash_between_parts(url: str, parts: tuple[str, ...], joined: str) -> None:
    assert storage.join(url, *parts) == joined


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    storage.write_bytes("~/a/b", b"x")
    assert (tmp_path / "a" / "b").read_bytes() == b"x"


def test_unknown_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match="gopher://x"):
        storage.filesystem("gopher://x")


def test_content_is_read_back(base: str) -> None:
    url = storage.join(base, "folder", "object")
    assert not storage.exists(url)
    storage.write_bytes(url, b"one")
    storage.write_bytes(url, b"two")
    assert storage.read_bytes(url) == b"two"
    assert storage.exists(url)


def test_reading_what_is_not_there_raises(base: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(storage.join(base, "nothing"))


def test_json_text_is_canonical(base: str) -> None:
    url = storage.join(base, "value.json")
    storage.write_json(url, {"b": [1, 2.5], "a": "é"})
    first = storage.read_bytes(url)
    storage.write_json(url, {"a": "é", "b": [1, 2.5]})
    assert storage.read_bytes(url) == first
    assert storage.read_json(url) == {"a": "é", "b": [1, 2.5]}


def test_json_without_a_meaning_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        storage.canonical_json({"a": float("nan")})


def test_json_that_is_no_object_is_refused(base: str) -> None:
    storage.write_bytes(storage.join(base, "list.json"), b"[1]")
    with pytest.raises(ValueError, match="not a table"):
        storage.read_json(storage.join(base, "list.json"))


def test_names_are_listed_sorted_and_only_of_the_folder(base: str) -> None:
    for name in ("b.json", "a.json", "failed/c.json"):
        storage.write_bytes(storage.join(base, "ledger", name), b"")
    assert storage.list_names(storage.join(base, "ledger")) == ["a.json", "b.json", "failed"]


def test_a_folder_that_is_not_there_lists_nothing(base: str) -> None:
    assert storage.list_names(storage.join(base, "nowhere")) == []


def test_removing_is_repeatable(base: str) -> None:
    url = storage.join(base, "folder", "object")
    storage.write_bytes(url, b"x")
    storage.remove(url)
    storage.remove(url)
    assert not storage.exists(url)


def test_half_written_files_are_neither_listed_nor_kept(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "0.6f1e.partial").write_bytes(b"half")
    storage.write_bytes(str(tmp_path / "c" / "1"), b"whole")
    assert storage.list_names(str(tmp_path / "c")) == ["1"]
    assert storage.remove_partial(str(tmp_path)) == 1
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["1"]


def test_the_rests_of_a_killed_zarr_write_carry_the_name_we_look_for(tmp_path: Path) -> None:
    # Zarr writes beside and renames as we do; should it change the suffix, remove_partial must follow.
    from zarr.storage import _local

    with _local._atomic_write(tmp_path / "0", "wb") as file:
        assert file.name.endswith(disk.PARTIAL_SUFFIX)


def test_readers_see_the_old_or_the_new_content_but_no_part(tmp_path: Path) -> None:
    url = str(tmp_path / "object")
    contents = [bytes([n]) * 500_000 for n in range(4)]
    storage.write_bytes(url, contents[0])
    writer = threading.Thread(target=lambda: [storage.write_bytes(url, content) for content in contents * 10])
    writer.start()
    while writer.is_alive():
        assert storage.read_bytes(url) in contents
    writer.join()


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "object").mkdir()
    with pytest.raises(OSError, match="object"):
        storage.write_bytes(str(tmp_path / "object"), b"x")
    assert list(tmp_path.iterdir()) == [tmp_path / "object"]


def test_zarr_reads_what_it_wrote(base: str) -> None:
    url = storage.join(base, "a.zarr")
    zarr.create_array(storage.zarr_store(url), data=np.arange(10), chunks=(3,))
    assert storage.exists(storage.join(url, "zarr.json"))
    array = zarr.open_array(storage.zarr_store(url, read_only=True), mode="r")
    np.testing.assert_array_equal(array[:], np.arange(10))


def test_read_only_store_refuses_a_write(base: str) -> None:
    url = storage.join(base, "a.zarr")
    zarr.create_array(storage.zarr_store(url), data=np.arange(10))
    with pytest.raises(ValueError, match="read"):
        zarr.open_array(storage.zarr_store(url, read_only=True), mode="r+")


def test_writable_place_passes_and_stays_empty(base: str) -> None:
    root = storage.join(base, "root")
    storage.require_writable("ROOT", root)
    assert storage.list_names(root) == []


@pytest.mark.parametrize("root", ["/proc/nowhere", "http://127.0.0.1:9/root"])
def test_unwritable_place_is_refused_by_name(root: str) -> None:
    with pytest.raises(ConfigError, match=root) as caught:
        storage.require_writable("ROOT", root)
    assert caught.value.key == "ROOT"


def test_an_object_is_created_once(tmp_path: Path) -> None:
    for url in (str(tmp_path / "folder" / "one"), f"memory://{tmp_path.name}/one"):
        assert storage.create_bytes(url, b"first")
        assert not storage.create_bytes(url, b"second")
        assert storage.read_bytes(url) == b"first"
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["one"]


def test_of_many_that_create_one_object_at_once_one_succeeds(tmp_path: Path) -> None:
    url = str(tmp_path / "one")
    contents = [bytes([number]) * 1000 for number in range(32)]
    with ThreadPoolExecutor(len(contents)) as pool:
        created = list(pool.map(lambda content: storage.create_bytes(url, content), contents))
    assert created.count(True) == 1
    assert storage.read_bytes(url) == contents[created.index(True)]


@pytest.fixture
def clean_tables() -> Iterator[None]:
    storage.configure(())
    yield
    storage.configure(())


@pytest.mark.usefixtures("clean_tables")
def test_the_longest_prefix_decides_how_a_bucket_is_reached() -> None:
    bucket = StorageConfig(prefix="s3://b", endpoint="http://one.test")
    folder = StorageConfig(prefix="s3://b/x", endpoint="http://two.test", requester_pays=True)
    storage.configure((folder, bucket))
    for url, endpoint, pays in (
        ("s3://b/y", "http://one.test", False),
        ("s3://b/xy", "http://one.test", False),
        ("s3://b/x", "http://two.test", True),
        ("s3://b/x/y/z", "http://two.test", True),
        ("s3://c", None, False),
    ):
        fs, _ = storage.filesystem(url)
        assert (fs.endpoint_url, "RequestPayer" in fs.req_kw) == (endpoint, pays)
    storage.configure(())
    assert storage.filesystem("s3://b/y")[0].endpoint_url is None


@pytest.mark.usefixtures("clean_tables")
def test_two_runs_in_one_process_each_keep_their_tables() -> None:
    found: dict[str, str] = {}
    barrier = threading.Barrier(2)

    def work(endpoint: str) -> None:
        storage.configure((StorageConfig(prefix="s3://b", endpoint=endpoint),))
        barrier.wait()
        found[endpoint] = storage.filesystem("s3://b/x")[0].endpoint_url

    threads = [threading.Thread(target=work, args=(endpoint,)) for endpoint in ("http://one.test", "http://two.test")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {endpoint: endpoint for endpoint in found}
    assert len(found) == 2


class _Guarded(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:  # noqa: N802
        expected = f"Basic {base64.b64encode(b'reader:word').decode()}"
        content = b"content" if self.headers.get("Authorization") == expected else b""
        self.send_response(200 if content else 401)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Stay silent."""


def test_a_web_server_is_told_who_asks_by_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login reader password word\n")
    netrc.chmod(0o600)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Guarded) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/file"
        monkeypatch.setenv("NETRC", str(tmp_path / "none"))
        with pytest.raises(Exception, match="401"):
            storage.read_bytes(url)
        monkeypatch.setenv("NETRC", str(netrc))
        assert storage.read_bytes(url) == b"content"
        server.shutdown()


def test_a_name_with_brackets_is_no_pattern(tmp_path: Path) -> None:
    for name in ("run1", "run[1]"):
        storage.write_bytes(str(tmp_path / name / "000001.json"), b"{}")
    storage.remove(str(tmp_path / "run[1]" / "000001.json"))
    assert storage.list_names(str(tmp_path / "run1")) == ["000001.json"]
    assert storage.list_names(str(tmp_path / "run[1]")) == []


PUBLIC = "s3://desidata"


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_public", set())
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    storage.publish([PUBLIC])


def is_anonymous(url: str) -> bool:
    return bool(storage._options(url).get("anon", False))


def test_a_public_bucket_is_read_without_credentials_and_no_other(
    published: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_anonymous(f"{PUBLIC}/dr1")
    assert is_anonymous(PUBLIC)
    assert not is_anonymous("s3://desidata-of-mine/dr1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")  # for another bucket
    assert is_anonymous(f"{PUBLIC}/dr1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # where a bucket of that name is another one
    assert not is_anonymous(f"{PUBLIC}/dr1")


def test_a_table_of_the_plan_says_more_than_that_a_bucket_is_public(published: None) -> None:
    storage.configure([StorageConfig(prefix=PUBLIC, profile="mine")])
    try:
        assert storage._options(f"{PUBLIC}/dr1")["profile"] == "mine"
        assert not is_anonymous(f"{PUBLIC}/dr1")
    finally:
        storage.configure(())
