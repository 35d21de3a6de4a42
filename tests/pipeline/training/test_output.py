from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.training.output import Output


@pytest.mark.parametrize(
    ("url", "stem"),
    [
        ("/folder/model.pt", "/folder/model"),
        ("/fol.der/model", "/fol.der/model"),
        ("s3://bucket/a.b/model.v2.pt", "s3://bucket/a.b/model.v2"),
        ("/folder/.pt", "/folder/.pt"),
    ],
)
def test_log_and_figure_are_beside_the_checkpoint(url: str, stem: str) -> None:
    assert (Output(url).log, Output(url).curve) == (f"{stem}.jsonl", f"{stem}.png")


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/", "/folder/", "memory://model/"])
def test_a_folder_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="--output is '.*', expected a file, not a folder"):
        Output(url)


def test_what_the_log_and_the_figure_need_is_refused() -> None:
    for name in ("m.jsonl", "m.png"):
        with pytest.raises(ConfigError, match="--output is '.*', expected another ending"):
            Output(f"/folder/{name}")


def test_a_url_with_a_secret_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError, match="expected a URL without user name") as error:
        Output("s3://key:secret@bucket/model.pt")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("where", ["folder/m.pt", "memory://training/m.pt"])
def test_what_is_written_is_read(tmp_path: Path, where: str) -> None:
    file = Output(where if "://" in where else str(tmp_path / where))
    file.require_writable()
    assert not file.exists()
    file.write(b"first")
    file.write(b"second")
    assert file.exists()
    assert file.read() == b"second"
    assert storage.list_names(file.url.rpartition("/")[0]) == ["m.pt"]


def test_the_log_is_a_line_per_record_and_survives_a_damaged_one(tmp_path: Path) -> None:
    file = Output(str(tmp_path / "m.pt"))
    assert file.read_log() == []
    records = [{"epoch": 1, "train": {"sdss": 2.5}}, {"epoch": 2, "train": {"sdss": 1.5}}]
    file.write_log(records)
    lines = (tmp_path / "m.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert file.read_log() == records
    (tmp_path / "m.jsonl").write_text(f"{lines[0]}\n{lines[1][:10]}\n[3]\n")
    assert file.read_log() == records[:1]


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for url in (str(tmp_path / "file" / "m.pt"), "https://localhost:1/m.pt"):
        with pytest.raises(ConfigError, match="--output is '.*', expected a place that can be written"):
            Output(url).require_writable()
