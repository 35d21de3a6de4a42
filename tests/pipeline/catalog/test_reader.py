"""Blocks of a catalog's columns: the same whatever the block, the format and the way to the file."""

from __future__ import annotations

import gzip
import re
import shutil
import threading
import uuid
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.table import Table

from pipeline.catalog import reader as catalog
from pipeline.catalog import targets
from pipeline.catalog.reader import RETRIES, open_catalog
from pipeline.errors import ConfigError
from pipeline.surveys.columns import Columns


def read_blocks(url: str, rows: int = catalog.BLOCK) -> Iterator[Columns]:
    with open_catalog(url) as table:
        yield from table.blocks(table.names, rows)


def whole(url: str, rows: int = catalog.BLOCK) -> Columns:
    blocks = list(read_blocks(url, rows))
    assert all(len(next(iter(block.values()))) <= rows for block in blocks)
    return {name: np.ma.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def odd_table(path: Path) -> Table:
    """Write a table of every kind of column that FITS has and catalogs use."""
    table = Table(
        {
            "TEXT": np.array(["a ", "", "ccc"]),
            "BYTE": np.array([0, 7, 255], np.uint8),
            "SHORT": np.array([-1, 2, 3], np.int16),
            "LONG": np.array([2**62, -5, 6], np.int64),
            "UNSIGNED": np.array([0, 2**31, 2**32 - 1], np.uint32),
            "HUGE": np.array([0, 2**63 + 1, 2**64 - 1], np.uint64),
            "REAL": np.array([1.5, np.nan, -0.0], np.float32),
            "FLAG": np.array([True, False, True]),
            "VECTOR": np.arange(6.0).reshape(3, 2),
        }
    )
    table.write(path)
    return table


@pytest.mark.parametrize("rows", [1, 2, 3, 1000])
def test_every_kind_of_column_is_read_as_astropy_reads_it(tmp_path: Path, rows: int):
    written = odd_table(tmp_path / "odd.fits")
    found = whole(str(tmp_path / "odd.fits"), rows)
    assert list(found) == written.colnames
    for name in written.colnames:
        values = found[name]
        if values.dtype.kind == "S":
            assert [value.decode().strip() for value in values] == [text.strip() for text in written[name]]
            continue
        assert values.dtype.isnative
        np.testing.assert_array_equal(np.ma.getdata(values), np.asarray(written[name]), err_msg=name)
    assert found["HUGE"].dtype == np.uint64  # never through floats


@pytest.mark.parametrize("rows", [1, 7, 116, 117, 10_000])
def test_blocks_of_any_size_give_the_same_targets(catalog: Path, rows: int):
    where = "CLASS == 'GALAXY' and Z < 0.3"
    found = targets.find_targets(str(catalog), where, block=rows)
    pd.testing.assert_frame_equal(found.frame, targets.read_targets(str(catalog), where))
    assert found.rows == 117


def test_the_null_of_an_integer_column_is_missing(tmp_path: Path):
    column = fits.Column("COUNT", "J", array=[1, -99, 3], null=-99)
    fits.BinTableHDU.from_columns([column]).writeto(tmp_path / "null.fits")
    assert np.ma.getmaskarray(whole(str(tmp_path / "null.fits"))["COUNT"]).tolist() == [False, True, False]


def test_a_table_after_an_image_is_found(tmp_path: Path):
    image = fits.PrimaryHDU(np.zeros((30, 50), np.float32))
    table = fits.BinTableHDU.from_columns([fits.Column("Z", "E", array=[0.5])])
    fits.HDUList([image, table]).writeto(tmp_path / "both.fits")
    assert whole(str(tmp_path / "both.fits"))["Z"].tolist() == [0.5]


def test_a_cut_table_is_refused_and_not_read_as_a_shorter_one(catalog: Path, tmp_path: Path):
    data = catalog.read_bytes()
    (tmp_path / "cut.fits").write_bytes(data[: len(data) // 2])
    with pytest.raises(ConfigError, match="truncated"):
        targets.read_targets(str(tmp_path / "cut.fits"))
    (tmp_path / "cut.fits.gz").write_bytes(gzip.compress(data)[:-5000])
    with pytest.raises(ConfigError, match="readable fits catalog"):
        targets.read_targets(str(tmp_path / "cut.fits.gz"))


# --- remote ---


class Server(SimpleHTTPRequestHandler):
    """Serves a folder, by ranges if asked to; counts what it sends."""

    gives_ranges = True
    faults = 0
    requests: list[tuple[int, int]] = []

    def do_GET(self) -> None:  # noqa: N802 - the base class's name
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        data = Path(self.translate_path(self.path)).read_bytes()
        if Server.faults and asked:
            Server.faults -= 1
            self.send_error(503)
            return
        if asked and self.gives_ranges:
            start, stop = int(asked[1]), min(int(asked[2]) + 1, len(data))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        else:
            start, stop = 0, len(data)
            self.send_response(200)
        Server.requests.append((start, stop))
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        self.wfile.write(data[start:stop])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[str]:
    Server.requests, Server.gives_ranges, Server.faults = [], True, 0
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=str(tmp_path))) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()
        thread.join()


@pytest.mark.parametrize("form", ["fits", "fits.gz", "csv", "csv.gz", "parquet"])
@pytest.mark.parametrize("gives_ranges", [True, False])
def test_a_catalog_on_a_web_server_is_the_one_on_the_disk(
    catalog: Path, tmp_path: Path, serve: str, form: str, gives_ranges: bool
):
    path = tmp_path / f"catalog.{form}"
    expected = targets.read_targets(str(catalog))
    if form.startswith("fits"):
        path.write_bytes(gzip.compress(catalog.read_bytes()) if form.endswith("gz") else catalog.read_bytes())
    elif form == "parquet":
        targets.write_targets(expected, str(path))
    else:
        expected.to_csv(path, index=False)
    Server.gives_ranges = gives_ranges
    pd.testing.assert_frame_equal(targets.read_targets(f"{serve}/catalog.{form}"), expected)


def test_a_remote_table_is_asked_for_in_ranges_and_never_twice(
    catalog: Path, tmp_path: Path, serve: str, monkeypatch: pytest.MonkeyPatch
):
    shutil.copy(catalog, tmp_path / "catalog.fits")
    monkeypatch.setattr("pipeline.catalog.reader.READ_AHEAD", 8000)
    targets.find_targets(f"{serve}/catalog.fits", block=10)
    size = catalog.stat().st_size
    sent = sum(stop - start for start, stop in Server.requests)
    assert len(Server.requests) > 2
    assert max(stop - start for start, stop in Server.requests) < size
    assert sent < 1.6 * size  # the header is asked for a second time, when the file is rewound


@pytest.mark.parametrize("form", ["fits", "parquet"])
def test_any_filesystem_will_do(catalog: Path, form: str, tmp_path: Path):
    url = f"memory://{uuid.uuid4().hex}/catalog.{form}"
    content = catalog.read_bytes()
    if form == "parquet":
        targets.write_targets(targets.read_targets(str(catalog)), str(tmp_path / "t.parquet"))
        content = (tmp_path / "t.parquet").read_bytes()
    with fsspec.open(url, "wb") as file:
        file.write(content)
    pd.testing.assert_frame_equal(targets.read_targets(url), targets.read_targets(str(catalog)))


def test_a_range_that_fails_is_asked_for_again(
    catalog: Path, tmp_path: Path, serve: str, monkeypatch: pytest.MonkeyPatch
):
    shutil.copy(catalog, tmp_path / "catalog.fits")
    monkeypatch.setattr("pipeline.catalog.reader.READ_AHEAD", 8000)
    monkeypatch.setattr("pipeline.retry.time.sleep", lambda seconds: None)
    blocks = read_blocks(f"{serve}/catalog.fits", 10)
    next(blocks)
    Server.faults = RETRIES
    assert sum(len(block["Z"]) for block in blocks) == 107
    Server.faults = RETRIES + 3
    blocks = read_blocks(f"{serve}/catalog.fits", 10)
    with pytest.raises(ConfigError, match="503"):
        list(blocks)


def test_a_server_that_gives_a_part_only_of_the_beginning_is_copied_from(
    catalog: Path, tmp_path: Path, serve: str, monkeypatch: pytest.MonkeyPatch
):
    shutil.copy(catalog, tmp_path / "catalog.fits")
    Server.gives_ranges = False
    monkeypatch.setattr("pipeline.catalog.reader.READ_AHEAD", catalog.stat().st_size // 3)
    pd.testing.assert_frame_equal(targets.read_targets(f"{serve}/catalog.fits"), targets.read_targets(str(catalog)))


# --- damage ---


def test_any_damage_is_a_mistake_with_a_message(catalog: Path, tmp_path: Path):
    """Mutate the headers, where every library raises something of its own, and what is packed."""
    data = catalog.read_bytes()
    rng = np.random.default_rng(7)
    end = data.index(b"END     ", 2880) + 80
    refused = 0
    for number in range(150):
        content = bytearray(data)
        for position in rng.integers(0, end, 1 + number % 5):
            content[position] = rng.integers(0, 256)
        (tmp_path / "odd.fits").write_bytes(content)
        try:
            targets.read_targets(str(tmp_path / "odd.fits"))
        except ConfigError:
            refused += 1
    assert refused > 20
    packed = bytearray(gzip.compress(data))
    packed[len(packed) // 2] ^= 255
    (tmp_path / "odd.fits.gz").write_bytes(packed)
    with pytest.raises(ConfigError, match="CATALOG"):
        targets.read_targets(str(tmp_path / "odd.fits.gz"))


def test_a_block_holds_no_more_bytes_than_it_may(catalog: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.catalog.reader.BLOCK_BYTES", 4_000)
    sizes = [len(block["Z"]) for block in read_blocks(str(catalog))]
    assert sum(sizes) == 117
    assert len(sizes) > 5


# --- CSV ---


def test_a_block_without_any_text_selects_as_a_text_column_does(tmp_path: Path):
    rows = pd.DataFrame(
        {"PLATE": 266, "MJD": 51602, "FIBERID": range(1, 7), "RUN2D": "26", "Z": 0.1}
        | {"SUBCLASS": ["AGN", "STARFORMING", None, None, None, None]}
    )
    rows.to_csv(tmp_path / "catalog.csv", index=False)
    for where, count in (
        ("SUBCLASS == 'AGN'", 1),
        ("SUBCLASS != 'AGN'", 5),
        ("SUBCLASS in ('AGN', 'BROADLINE')", 1),
        ("SUBCLASS not in ('AGN', 'BROADLINE')", 5),
    ):
        for block in (2, 6):
            found = targets.find_targets(str(tmp_path / "catalog.csv"), where, block=block)
            assert len(found.frame) == count, (where, block)


def test_an_id_of_twenty_digits_is_a_number_to_compare_with(tmp_path: Path):
    (tmp_path / "catalog.csv").write_text(
        "PLATE,MJD,FIBERID,RUN2D,Z,SPECOBJID\n11000,58000,1,v5_13_2,0.1,12385000000000000001\n"
        "11000,58000,2,v5_13_2,0.1,\n"
    )
    found = targets.read_targets(str(tmp_path / "catalog.csv"), "SPECOBJID == 12385000000000000001")
    assert found["specobjid"].tolist() == [12385000000000000001]
