"""What is damaged, changed or gone between two runs is noticed, named, and done again."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

import pipeline
from pipeline import storage
from pipeline.catalog import targets
from pipeline.cli import main as cli
from pipeline.compute import executor, job
from pipeline.monitor.progress import make_progress
from pipeline.planning.plan import Plan
from pipeline.store import arrays as dataset
from pipeline.store import root as runs
from pipeline.store.ledger import Ledger
from tests.running import file_hashes, make_root


@pytest.fixture
def run(tmp_path: Path, mirror: Path) -> tuple[Path, Plan]:
    root, plan = make_root(tmp_path, mirror)
    assert cli.main(["run", root, "--serial"]) == 0
    return Path(root), plan


def refused(capsys: pytest.CaptureFixture[str], *command: str, status: int = 1) -> str:
    capsys.readouterr()
    assert cli.main(list(command)) == status
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    return shown.out + shown.err


def test_another_targets_table_is_refused(tmp_path: Path, mirror: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, plan = make_root(tmp_path, mirror)
    url = runs.targets_url(root)
    frame = targets.read_rows(url, 0, plan.n_spectra)
    frame["z"] = (frame["z"] + 0.1).astype(np.float32)
    targets.write_targets(frame, url, row_group=plan.shard)
    assert "targets.parquet" in refused(capsys, "run", root, "--serial")


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_lost_targets_are_restored_from_the_original(
    run: tuple[Path, Plan], tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root, _ = run
    table, original, before = root / "targets.parquet", tmp_path / "original.parquet", file_hashes(root)
    content = table.read_bytes()
    shutil.copy(table, original)
    (root / "spectra.zarr" / "norm" / "c" / "1").unlink()
    table.write_bytes(content[: len(content) // 2])
    if damage == "gone":
        table.unlink()
    remedy = f"restore it: spender-pipeline plan {root} --targets ORIGINAL"
    for command, status in (("verify", 3), ("verify --repair", 3), ("run", 1), ("plan", 1)):
        verb, *options = command.split()
        assert remedy in refused(capsys, verb, str(root), *options, status=status)
    assert remedy in refused(capsys, "plot", str(root), "--id", "1", "--output", str(tmp_path / "x.png"))
    assert cli.main(["plan", str(root), "--targets", str(original)]) == 0
    assert table.read_bytes() == content
    assert cli.main(["run", str(root), "--serial"]) == 0
    assert cli.main(["verify", str(root)]) == 0
    assert file_hashes(root) == before


def test_a_mirror_that_vanished_makes_no_empty_spectra(
    run: tuple[Path, Plan], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, plan = run
    runs.ingest_ledger(str(root), plan).unmark(2)
    (tmp_path / "empty" / "dr17").mkdir(parents=True)
    assert cli.main(["plan", str(root), "--source", str(tmp_path / "empty" / "dr17")]) == 0
    assert "none of" in refused(capsys, "run", str(root), "--serial")


def test_spectra_ingested_anew_are_encoded_anew(run: tuple[Path, Plan]) -> None:
    root, plan = run
    before = file_hashes(root)
    runs.ingest_ledger(str(root), plan).unmark(1)
    url = dataset.encodings_url(str(root), "random")
    shard = plan.shards()[1]
    wrong = np.zeros((len(shard), plan.models[0].n_latent or 0), np.float32)
    dataset.write_region(url, shard, {"latents": wrong})
    assert cli.main(["run", str(root), "--serial"]) == 0
    assert file_hashes(root) == before


def test_a_web_server_that_ignores_ranges_is_no_damage(
    run: tuple[Path, Plan], capsys: pytest.CaptureFixture[str]
) -> None:
    root, _ = run
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            port = re.search(r"port (\d+)", server.stdout.readline())
            assert port is not None
            url = f"http://127.0.0.1:{port[1]}"
            assert cli.main(["verify", url]) == 0, capsys.readouterr()
            np.testing.assert_array_equal(
                pipeline.open_run(url).encodings("random").latents, pipeline.open_run(root).encodings("random").latents
            )
            (root / "spectra.zarr" / "norm" / "c" / "1").unlink()
            assert "chunk 1: norm is not what was written" in refused(capsys, "verify", url, status=3)
        finally:
            server.terminate()


@pytest.mark.parametrize("store", ["spectra.zarr/flux", "encodings/random.zarr/latents"])
def test_verify_finds_a_lost_shard_and_repair_brings_it_back(
    run: tuple[Path, Plan], store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root, _ = run
    before = file_hashes(root)
    shard = next(path for path in sorted((root / store / "c").rglob("*")) if path.is_file())
    shard.unlink()
    shown = refused(capsys, "verify", str(root), status=3)
    assert "is not what was written" in shown
    assert "--repair" in shown
    assert "marked as not done" in refused(capsys, "verify", str(root), "--repair", status=3)
    assert cli.main(["run", str(root), "--serial"]) == 0
    assert cli.main(["verify", str(root)]) == 0
    assert file_hashes(root) == before


def test_damaged_spectra_are_not_blamed_on_the_model(
    run: tuple[Path, Plan], capsys: pytest.CaptureFixture[str]
) -> None:
    root, plan = run
    runs.encode_ledger(str(root), plan, "random").unmark(0)
    shutil.rmtree(root / "spectra.zarr" / "flux" / "c" / "0")
    shown = refused(capsys, "run", str(root), "--serial", status=3)
    assert "--repair" in shown


@pytest.mark.parametrize("content", ["", "{", "[]"])
@pytest.mark.parametrize("command", ["status", "run", "finalize"])
def test_a_damaged_marker_is_named(
    run: tuple[Path, Plan], content: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root, plan = run
    ledger = runs.ingest_ledger(str(root), plan)
    storage.write_bytes(f"{ledger.folder}/000001.json", content.encode())
    assert "000001.json" in refused(capsys, command, str(root))


def test_a_store_without_credentials_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    shown = refused(capsys, "status", "s3://no-such-bucket/run")
    assert "check the credentials and the endpoint" in shown
    assert len(shown.splitlines()) == 1
    with pytest.raises(storage.AccessError):  # and no damaged marker, which verify --repair would remove
        Ledger("s3://no-such-bucket/run", "ingest", "0" * 64).read(0)


def test_a_source_of_another_release_is_refused(run: tuple[Path, Plan], capsys: pytest.CaptureFixture[str]) -> None:
    root, _ = run
    shown = refused(capsys, "plan", str(root), "--source", "https://data.sdss.org/sas/dr16")
    assert "a mirror of dr17" in shown


@pytest.mark.parametrize("damage", ["index", "cut", "empty"])
@pytest.mark.parametrize("name", ["flux", "norm"])
def test_a_chunk_is_done_anew_over_a_shard_that_cannot_be_read(run: tuple[Path, Plan], name: str, damage: str) -> None:
    root, _ = run
    before = file_hashes(root)
    objects = root / "spectra.zarr" / name / "c" / "1"
    shard = objects if objects.is_file() else next(path for path in objects.rglob("*") if path.is_file())
    content = shard.read_bytes()
    shard.write_bytes({"index": content[:-8] + bytes(8), "cut": content[: len(content) // 2], "empty": b""}[damage])
    assert cli.main(["verify", str(root), "--repair"]) == 3
    assert cli.main(["run", str(root), "--serial"]) == 0
    assert file_hashes(root) == before


@pytest.mark.parametrize(
    "lost",
    [
        "spectra.zarr/flux/zarr.json",
        "spectra.zarr/zarr.json",
        "spectra.zarr/z/zarr.json",
        "spectra.zarr/fiberid/c/0",
        "encodings/random.zarr/wavelength_rest/c/0",
        "ledger/encode-random-*/store.json",
        "ledger/ingest-*/store.json",
    ],
)
@pytest.mark.parametrize("damage", ["gone", "empty", "cut"])
def test_what_describes_a_store_is_written_again(
    run: tuple[Path, Plan], lost: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root, _ = run
    before = file_hashes(root)
    file = next(root.glob(lost))
    content = file.read_bytes()
    file.unlink()
    if damage != "gone":
        file.write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    assert "--repair" in refused(capsys, "verify", str(root), status=3)
    shown = refused(capsys, "verify", str(root), "--repair", status=3)
    assert "rewritten" in shown
    assert "marked as not done" not in shown  # the data are as they were
    assert cli.main(["run", str(root), "--serial"]) == 0
    assert cli.main(["verify", str(root)]) == 0
    assert file_hashes(root) == before


def test_a_damaged_copy_of_the_descriptions_is_mended(
    run: tuple[Path, Plan], capsys: pytest.CaptureFixture[str]
) -> None:
    root, _ = run
    before = file_hashes(root)
    group = root / "spectra.zarr" / "zarr.json"
    group.write_text(group.read_text().replace("float32", "float64"))
    assert "the consolidated metadata of the store differ" in refused(capsys, "finalize", str(root))
    assert "rewritten: ingest" in refused(capsys, "verify", str(root), "--repair", status=3)
    assert cli.main(["run", str(root), "--serial"]) == 0
    assert file_hashes(root) == before


def test_repair_leaves_the_store_of_another_plan_alone(
    run: tuple[Path, Plan], tmp_path: Path, mirror: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, _ = run
    other, plan = make_root(tmp_path, mirror, name="other", n=4)
    assert cli.main(["ingest", other, "--serial"]) == 0
    shutil.rmtree(Path(other) / "spectra.zarr")
    shutil.copytree(root / "spectra.zarr", Path(other) / "spectra.zarr")
    assert "belongs to another plan" in refused(capsys, "verify", other, status=3)
    before = file_hashes(Path(other))
    assert "no store of another plan" in refused(capsys, "verify", other, "--repair", status=3)
    assert file_hashes(Path(other)) == before
    assert plan.n_spectra == 4


def test_what_has_not_begun_is_said_once(tmp_path: Path, mirror: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, _ = make_root(tmp_path, mirror)
    shown = refused(capsys, "verify", root, "--repair", status=3)
    assert shown.splitlines() == [
        "ingest: not begun",
        "encode random: not begun",
        f"error: {root} is not finished; what is done is undamaged; to do the rest: spender-pipeline run {root}",
    ]


@pytest.mark.parametrize("command", ["ingest", "run --model random"])
def test_spectra_ingested_anew_by_any_command_are_encoded_anew_by_all_models(
    tmp_path: Path, mirror: Path, command: str
) -> None:
    root, plan = make_root(tmp_path, mirror, models=("random", "second"))
    assert cli.main(["run", root, "--serial"]) == 0
    before = file_hashes(Path(root))
    runs.ingest_ledger(root, plan).unmark(1)
    name, *options = command.split()
    assert cli.main([name, root, "--serial", *options]) == 0
    assert runs.encode_ledger(root, plan, "second").done() == {0, 2}
    assert cli.main(["run", root, "--serial"]) == 0
    assert cli.main(["verify", root]) == 0
    assert file_hashes(Path(root)) == before


def test_spectra_without_a_marker_are_not_encoded(run: tuple[Path, Plan], capsys: pytest.CaptureFixture[str]) -> None:
    root, plan = run
    runs.ingest_ledger(str(root), plan).unmark(1)
    runs.encode_ledger(str(root), plan, "random").unmark(1)
    assert "run ingest first" in refused(capsys, "encode", str(root), "--serial", status=3)


def test_a_write_that_fails_leaves_what_another_run_has_written(
    run: tuple[Path, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A late task of a second run, out of memory: a good shard is no damage."""
    root, plan = run
    before = file_hashes(root)
    real = zarr.Array.__setitem__

    def short_of_memory(array: object, selection: object, values: object) -> None:
        raise MemoryError

    shard = plan.shards()[1]
    url = dataset.spectra_url(str(root))
    flux = dataset.read_region(url, ["flux"], shard.start, shard.stop)
    monkeypatch.setattr(zarr.Array, "__setitem__", short_of_memory)
    with pytest.raises(MemoryError):
        dataset.write_region(url, shard, flux)
    monkeypatch.setattr(zarr.Array, "__setitem__", real)
    assert file_hashes(root) == before


def test_a_store_of_an_older_version_is_mended_as_well(
    run: tuple[Path, Plan], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its marker tells nothing of descriptions; a damaged one must not have every chunk done again."""
    root, plan = run
    before = file_hashes(root)
    ledger = runs.ingest_ledger(str(root), plan)
    made = ledger.read_store()
    ledger.mark_store({"checksums": made["checksums"]})
    assert cli.main(["verify", str(root)]) == 0
    (root / "spectra.zarr" / "flux" / "zarr.json").write_text("{}")
    shown = refused(capsys, "verify", str(root), "--repair", status=3)
    assert "rewritten: ingest" in shown
    assert "marked as not done" not in shown
    assert cli.main(["run", str(root), "--serial"]) == 0
    assert file_hashes(root) == before


def test_without_its_checkpoint_a_store_is_not_restored_and_no_chunk_is_blamed(
    run: tuple[Path, Plan], capsys: pytest.CaptureFixture[str]
) -> None:
    root, plan = run
    checkpoint = Path(plan.models[0].checkpoint)
    content = checkpoint.read_bytes()
    (root / "encodings" / "random.zarr" / "latents" / "zarr.json").write_text("{}")
    (root / "spectra.zarr" / "flux" / "c" / "1" / "0").unlink()
    checkpoint.unlink()
    try:
        shown = refused(capsys, "verify", str(root), "--repair", status=3)
    finally:
        checkpoint.write_bytes(content)
    assert "encode random: cannot be written again" in shown
    assert "1 chunk marked as not done" in shown  # of the spectra
    assert runs.encode_ledger(str(root), plan, "random").done() == {0, 1, 2}


@pytest.mark.parametrize("change", [{"quality": None}, {"checksums": None}, {"fingerprint": "0" * 64}])
def test_a_marker_that_does_not_tell_all_is_damage(
    run: tuple[Path, Plan], change: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    root, plan = run
    before = file_hashes(root)
    ledger = runs.ingest_ledger(str(root), plan)
    storage.write_json(f"{ledger.folder}/000001.json", ledger.read(1) | change)
    for command in ("status", "run"):
        assert "000001.json" in refused(capsys, command, str(root))
    assert "1 chunk marked as not done" in refused(capsys, "verify", str(root), "--repair", status=3)
    assert cli.main(["run", str(root), "--serial"]) == 0
    assert file_hashes(root) == before


def test_attributes_that_were_changed_are_found(run: tuple[Path, Plan], capsys: pytest.CaptureFixture[str]) -> None:
    root, _ = run
    before = file_hashes(root)
    group = root / "encodings" / "random.zarr" / "zarr.json"
    text = group.read_text()
    group.write_text(text.replace('"spectra_fingerprint": "', '"spectra_fingerprint": "x'))
    assert group.read_text() != text
    assert "rewritten: encode random" in refused(capsys, "verify", str(root), "--repair", status=3)
    assert cli.main(["run", str(root), "--serial"]) == 0
    assert file_hashes(root) == before


def test_a_late_run_leaves_encodings_that_another_has_made(run: tuple[Path, Plan]) -> None:
    root, plan = run
    before = file_hashes(root)
    runs.ingest_ledger(str(root), plan).unmark(1)
    late = job.pending(str(root), plan, ("ingest",), [])
    assert cli.main(["run", str(root), "--serial"]) == 0
    assert executor.run(late, None, make_progress()).failed == ()
    assert file_hashes(root) == before
