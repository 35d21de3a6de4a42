"""DESI through the whole pipeline: the real coadd by the commands of a user, and a mock release from a bucket."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

import pipeline
from pipeline.cli import main as cli
from pipeline.mock.coadds import MockCoadd, write_coadds, write_zall
from pipeline.spectra.normalize import Grid, normalize
from pipeline.spectra.quality import Quality
from pipeline.store.arrays import read_region, spectra_url
from pipeline.surveys.desi.coadd import read_coadd
from spender_core import DESI, load_model
from tests import desi_release, faults, s3
from tests.running import make_root

BUCKET = "desi"


def test_the_real_coadd_goes_from_its_catalog_to_a_figure(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, root, table = desi_release.release_of(shared_data), str(tmp_path / "run"), str(tmp_path / "t.parquet")
    assert cli.main(["targets", str(source / desi_release.REDROCK), "--select", "galaxies", "--output", table]) == 0
    assert "survey desi, by the columns TARGETID, SURVEY, PROGRAM, HPXPIXEL" in capsys.readouterr().out.splitlines()
    model = str(desi_release.random_checkpoint(tmp_path))
    planned = ["plan", root, "--targets", table, "--source", str(source), "--instrument", "desi", "--model", model]
    assert cli.main(planned) == 0
    assert cli.main(["run", root, "--serial"]) == 0
    for name in (desi_release.KEY, "39089837499744649"):
        figure = tmp_path / f"{name}.png"
        assert cli.main(["plot", root, "--id", name, "--output", str(figure)]) == 0
        assert figure.stat().st_size > 10_000
    assert cli.main(["report", root, "--output", str(tmp_path / "report.html")]) == 0

    encodings = pipeline.open_run(root).encodings().compute()
    with fits.open(source / desi_release.REDROCK) as hdus:
        best = hdus["REDSHIFTS"].data[0]
    assert encodings["z"].item() == np.float32(best["Z"])
    assert encodings["zwarning"].item() == best["ZWARN"] == 0
    assert encodings["targetid"].dtype == np.int64
    assert encodings["targetid"].item() == best["TARGETID"]
    assert encodings["quality"].item() == Quality.GOOD
    assert np.isfinite(encodings["latents"]).all()
    assert encodings.attrs["title"].startswith("Encodings of DESI spectra")
    stored = read_region(spectra_url(root), ("flux", "ivar", "norm"), 0, 1)
    raw = read_coadd((source / desi_release.COADD).read_bytes()).spectrum(best["TARGETID"])
    expected = normalize(raw, best["Z"], Grid.of(DESI()))
    np.testing.assert_array_equal(stored["flux"][0], expected.flux)
    np.testing.assert_array_equal(stored["ivar"][0], expected.ivar)
    assert stored["norm"][0] == expected.norm


def test_a_batch_of_the_real_coadd_can_be_encoded(shared_data: Path, tmp_path: Path) -> None:
    source, folder = desi_release.release_of(shared_data), tmp_path / "folder"
    spec, w, z, ids, norm, z_err = pipeline.make_batch(folder, desi_release.KEY, survey="desi", source=source)
    assert (z.item(), z_err.item()) == pytest.approx((0.0072696719, 2.3706e-05), rel=1e-4)
    assert ids.tolist() == [[27247, 39089837499744649]]
    kept = sorted(file.name for file in folder.rglob("*.fits"))
    assert kept == [Path(desi_release.COADD).name, Path(desi_release.REDROCK).name]
    again = pipeline.make_batch(folder, [desi_release.KEY], survey="desi", source=tmp_path / "nowhere")
    assert all((one == other).all() for one, other in zip((spec, w, z, ids, norm, z_err), again, strict=True))
    model, _ = load_model(desi_release.random_checkpoint(tmp_path), DESI())
    assert model.encode(spec).isfinite().all()


def test_a_list_of_keys_gets_its_redshifts_from_the_archive(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text(f"{desi_release.KEY}\n")
    found = pipeline.select_targets(tmp_path / "keys.txt", source=desi_release.release_of(shared_data))
    assert found.frame["z"].tolist() == [np.float32(0.007269671851219614)]
    assert found.said[-1].startswith("z of 1 target from their files at ")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[MockCoadd]]:
    """Write 40 mock targets in two coadds, and their catalog."""
    root = tmp_path_factory.mktemp("release") / "dr1"
    made = write_coadds(root, desi_release.restframes, 40, per_file=20)
    write_zall(made, root)
    return root, made


@pytest.fixture(scope="module")
def proxy(release: tuple[Path, list[MockCoadd]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[faults.Proxy]:
    """Serve the release from a bucket, behind what counts requests."""
    root, _ = release
    with s3.serve(tmp_path_factory.mktemp("s3")) as server, faults.between(server.endpoint) as between:
        client = s3.client(server)
        client.create_bucket(Bucket=BUCKET)
        for file in root.rglob("*.fits"):
            key = f"dr1/{file.relative_to(root).as_posix()}"
            client.put_object(Bucket=BUCKET, Key=key, Body=file.read_bytes())
        with s3.as_default(server, endpoint=between.endpoint):
            yield between


def test_a_release_in_a_bucket_is_run_with_few_requests(
    release: tuple[Path, list[MockCoadd]], proxy: faults.Proxy, tmp_path: Path
) -> None:
    _, made = release
    pattern = f"s3://{BUCKET}/dr1/spectro/redux/iron/healpix/*/*/*/*/redrock-*.fits"
    targets = pipeline.select_targets(pattern)
    pipeline.plan(tmp_path / "run", targets=targets, source=f"s3://{BUCKET}/dr1")
    pipeline.run(tmp_path / "run", serial=True, progress=False, stages="ingest")
    asked = Counter(path for method, path in proxy.requests if method == "GET" and "list-type" not in path)
    for each in made:
        for file, most in ((each.coadd, 8), (each.redrock, 3)):
            assert 0 < sum(count for path, count in asked.items() if file.name in path) <= most
    given = sum(size for path, size in proxy.given.items() if "/coadd-" in path)
    assert given <= 0.25 * sum(each.coadd.stat().st_size for each in made)

    flagged = {row["TARGETID"] for each in made for row in each.rows if row["COADD_FIBERSTATUS"]}
    stored = read_region(spectra_url(str(tmp_path / "run")), ["quality"], 0, 40)["quality"].tolist()
    quality = dict(zip(targets.frame["targetid"], stored, strict=True))
    assert {each for each, bits in quality.items() if bits & Quality.FIBER_MASKED} == flagged
    assert set(quality.values()) <= {Quality.GOOD, Quality.FIBER_MASKED}


def test_a_run_grows_by_the_next_pixels(release: tuple[Path, list[MockCoadd]], tmp_path: Path) -> None:
    root, made = release
    catalog = next(root.rglob("zall-pix-*.fits"))
    first, all_of_them = (
        pipeline.select_targets(catalog, where=where) for where in (f"HEALPIX == {made[0].rows[0]['HEALPIX']}", None)
    )
    model = desi_release.random_checkpoint(tmp_path)
    pipeline.plan(tmp_path / "grown", targets=first, source=root, models=[model], shard=20)
    pipeline.run(tmp_path / "grown", serial=True, progress=False)
    pipeline.plan(tmp_path / "grown", targets=all_of_them, extend=True)
    assert pipeline.run(tmp_path / "grown", serial=True, progress=False).done == 2
    pipeline.plan(tmp_path / "fresh", targets=all_of_them, source=root, models=[model], shard=20)
    pipeline.run(tmp_path / "fresh", serial=True, progress=False)
    grown, fresh = (pipeline.open_run(tmp_path / name).encodings() for name in ("grown", "fresh"))
    np.testing.assert_array_equal(grown["target"], fresh["target"])
    np.testing.assert_array_equal(grown["latents"], fresh["latents"])


@pytest.mark.long
def test_one_decoder_is_trained_for_both_surveys_and_encodes_the_real_coadd(
    release: tuple[Path, list[MockCoadd]], mirror: Path, shared_data: Path, tmp_path: Path
) -> None:
    root, _ = release
    sdss, _ = make_root(tmp_path, mirror, name="sdss", n=30, shard=10, models=())
    desi = str(tmp_path / "desi")
    targets = pipeline.select_targets(next(root.rglob("zall-pix-*.fits")), select="galaxies", where="HEALPIX == 27000")
    pipeline.plan(desi, targets=targets, source=root)
    for run in (sdss, desi):
        pipeline.run(run, serial=True, progress=False, stages="ingest")
    output = tmp_path / "both.pt"
    small = ["--latents", "2", "--rest-range", "3500:9800", "--epochs", "2", "--batch-size", "16"]
    assert cli.main(["train", sdss, desi, "--output", str(output), *small]) == 0
    first, last = [json.loads(line) for line in output.with_suffix(".jsonl").read_text().splitlines()]
    assert set(first["train"]) == {"sdss", "desi"}
    assert last["valid"]["desi"] < first["valid"]["desi"]
    assert load_model(output, DESI())[0].decoder.n_latent == 2
    real, table = str(tmp_path / "real"), str(tmp_path / "real.parquet")
    source = desi_release.release_of(shared_data)
    assert cli.main(["targets", str(next(source.rglob("redrock-*.fits"))), "--output", table]) == 0
    what = ["--source", str(source), "--instrument", "desi", "--model", str(output)]
    assert cli.main(["plan", real, "--targets", table, *what]) == 0
    assert cli.main(["run", real, "--serial"]) == 0
    found = pipeline.open_run(real).encodings("both").load()
    assert np.isfinite(found["latents"]).all()
    assert np.isfinite(found["chi2"]).all()
    assert (found["n_pixels"] > 5000).all()
    assert cli.main(["plot", real, "--row", "0", "--output", str(tmp_path / "real.png")]) == 0
