from __future__ import annotations

import gzip
import shutil
import socket
import threading
import time
import warnings
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import pipeline
from pipeline.catalog import targets
from pipeline.results.batch import make_batch
from pipeline.spectra.raw import BadSpectrum
from pipeline.surveys.sdss.files import read_spec
from pipeline.surveys.sdss.layouts import spec_lite_path
from tests.sdss_v import sdss_v

IDS = ((266, 51630, 486), (266, 51602, 1), (412, 52254, 308))
PRESENT = IDS[:2]
BOSS_IDS = ((10467, 58138, 636), (3928, 55331, 858, "v5_13_2"), (5111, 55840, 716))


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


def real(mirror: Path, ids: tuple[int | str, ...], run2d: str = "26") -> Path:
    return mirror / spec_lite_path(run2d, *(int(part) for part in ids[:3]))


def test_a_batch_has_the_documented_shapes_and_types(mirror: Path):
    spec, w, z, ids, norm, zerr = make_batch(mirror, PRESENT)
    assert spec.shape == w.shape == (2, 3921)
    assert z.shape == norm.shape == zerr.shape == (2,)
    assert ids.dtype == torch.int32
    assert ids.tolist() == [list(entry) for entry in PRESENT]
    assert {t.dtype for t in (spec, w, z, norm, zerr)} == {torch.float32}
    for i, entry in enumerate(PRESENT):
        raw = read_spec(real(mirror, entry).read_bytes())
        assert (float(z[i]), float(zerr[i])) == (raw.z, raw.z_err)


def test_a_batch_equals_upstream(mirror: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from spender.data.sdss import SDSS

        # upstream finds files by plate under its own folder
        spec, w, z, norm, zerr = SDSS.make_batch(str(real(mirror, PRESENT[0]).parents[1]), PRESENT)
    ours = make_batch(mirror, PRESENT)
    for one, other in zip((ours[0], ours[1], ours[2], ours[4], ours[5]), (spec, w, z, norm, zerr), strict=True):
        assert torch.equal(one, other)


def test_boss_files_are_found_with_and_without_their_reduction(mirror: Path):
    spec, w, z, ids, norm, _ = make_batch(mirror, BOSS_IDS, "boss")
    assert spec.shape == w.shape == (3, 4686)
    assert ids.tolist() == [list(entry[:3]) for entry in BOSS_IDS]
    assert torch.isfinite(spec).all()
    assert (norm > 0).all()
    assert (z > 0).all()
    on_sdss_grid = make_batch(mirror, BOSS_IDS)
    assert on_sdss_grid[0].shape == (3, 3921)


@pytest.mark.parametrize("layout", ["plate", "flat"])
def test_folders_of_files_are_read_too(mirror: Path, tmp_path: Path, layout: str):
    for entry in PRESENT:
        folder = tmp_path / f"{entry[0]:04d}" if layout == "plate" else tmp_path
        folder.mkdir(exist_ok=True)
        shutil.copy(real(mirror, entry), folder)
    for one, other in zip(make_batch(str(tmp_path), PRESENT), make_batch(mirror, PRESENT), strict=True):
        assert torch.equal(one, other)


def test_missing_files_are_fetched_into_the_folder(mirror: Path, tmp_path: Path):
    folder = tmp_path / "new"
    fetched = make_batch(folder, PRESENT, source=str(mirror))
    for entry in PRESENT:
        assert real(folder, entry).read_bytes() == real(mirror, entry).read_bytes()
    again = make_batch(folder, PRESENT, source="/nowhere")
    assert all(torch.equal(one, other) for one, other in zip(fetched, again, strict=True))


def test_missing_boss_files_are_fetched_too(mirror: Path, tmp_path: Path):
    make_batch(tmp_path, BOSS_IDS[:2], "boss", source=str(mirror))
    assert real(tmp_path, BOSS_IDS[0], "v5_13_2").is_file()


def test_a_file_that_is_nowhere_raises_and_is_named(mirror: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="spec-0412-52254-0308"):
        make_batch(tmp_path, IDS[2:], source=str(mirror))


def test_a_mirror_over_http_is_read_but_not_written(mirror: Path):
    handler = partial(QuietHandler, directory=str(mirror))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        for one, other in zip(make_batch(url, PRESENT), make_batch(mirror, PRESENT), strict=True):
            assert torch.equal(one, other)
        with pytest.raises(FileNotFoundError, match="spec-0412-52254-0308.fits is not in http.* cannot be written"):
            make_batch(url, IDS[2:], source=str(mirror))
        server.shutdown()
        thread.join()


def test_a_bad_file_raises_and_is_named(shared_data: Path, tmp_path: Path):
    shutil.copy(shared_data / "odd" / "not-fits-spec-8521-58175-0279.fits", tmp_path / "spec-8521-58175-0279.fits")
    with pytest.raises(BadSpectrum, match=r"^spec-8521-58175-0279.fits: not a FITS file"):
        make_batch(tmp_path, [(8521, 58175, 279)])


def test_a_spectrum_without_valid_pixels_raises_and_is_named(shared_data: Path, tmp_path: Path):
    shutil.copy(shared_data / "odd" / "all-zero-ivar-spec-0269-51581-0003.fits", tmp_path / "spec-0269-51581-0003.fits")
    with pytest.raises(BadSpectrum, match=r"^spec-0269-51581-0003.fits: .*NO_PIXELS"):
        make_batch(tmp_path, [(269, 51581, 3)])


def test_a_file_of_another_target_raises_and_is_named(mirror: Path, tmp_path: Path):
    shutil.copy(real(mirror, PRESENT[0]), tmp_path / "spec-0266-51602-0001.fits")
    with pytest.raises(BadSpectrum, match="the file holds 266-51630-486"):
        make_batch(tmp_path, PRESENT[1:])


SPECOBJID = 299622993229801472  # of 266-51630-486


@pytest.mark.parametrize(
    "ids",
    [
        (266, 51630, 486),
        [266, 51630, 486, "26"],
        "266-51630-486",
        "26/266-51630-486",
        SPECOBJID,
        np.uint64(SPECOBJID),
        str(SPECOBJID),
        ["266-51630-486"],
        [[266, 51630, 486]],
        [SPECOBJID],
        np.array([266, 51630, 486]),
    ],
)
def test_one_spectrum_is_named_in_every_way_that_a_run_takes(mirror: Path, ids: Any):
    assert make_batch(mirror, ids)[3].tolist() == [[266, 51630, 486]]


@pytest.mark.parametrize("ids", ["x", "266-51630", 5, [(266, 51602)], [("a", 1, 2)], [(1, 2, 3, 4, 5)], [(1, 2, -3)]])
def test_what_names_no_spectrum_is_refused_with_what_would(mirror: Path, ids: Any):
    with pytest.raises(pipeline.ConfigError, match=r"^ids is .*, expected \(plate, mjd, fiberid\), .* or a specobjid"):
        make_batch(mirror, ids)


def test_a_specobjid_of_dr7_is_that_of_its_spectrum(mirror: Path):
    found = make_batch(mirror, (266 << 48) + (51602 << 32) + (1 << 22))
    assert found[3].tolist() == [[266, 51602, 1]]
    with pytest.raises(pipeline.ConfigError, match="SPECOBJID 1125899906842624123 is no spectrum's: it says"):
        make_batch(mirror, 1125899906842624123)


@pytest.mark.parametrize("run2d", [None, "v6_1_3", "v6_0_6"])
def test_sdss_v_spectra_are_named_by_field_mjd_and_catalogid(mirror: Path, tmp_path: Path, run2d: str | None):
    ids = (15000, 59146, 27021597780)
    file = tmp_path / spec_lite_path(run2d or "v6_1_3", *ids)
    file.parent.mkdir(parents=True)
    file.write_bytes(sdss_v(real(mirror, PRESENT[0]), catalogid=ids[2]))
    found = make_batch(tmp_path, [ids if run2d is None else (*ids, run2d)])
    assert found[3].tolist() == [list(ids)]
    assert found[3].dtype == torch.int64
    if run2d:
        assert make_batch(tmp_path, f"{run2d}/15000-59146-27021597780")[3].tolist() == [list(ids)]


def test_compressed_files_are_read_and_fetched_as_files(mirror: Path, tmp_path: Path):
    packed = tmp_path / "mirror" / (spec_lite_path("26", *PRESENT[0]) + ".gz")
    packed.parent.mkdir(parents=True)
    packed.write_bytes(gzip.compress(real(mirror, PRESENT[0]).read_bytes()))
    for folder in (tmp_path / "mirror", tmp_path / "new"):
        make_batch(folder, PRESENT[:1], source=tmp_path / "mirror")
    assert real(tmp_path / "new", PRESENT[0]).read_bytes() == real(mirror, PRESENT[0]).read_bytes()


def test_a_spectrum_of_dr7_is_said_to_be_one(shared_data: Path, tmp_path: Path):
    case = shared_data.parent / "cases" / "spSpec-52591-1070-072.fit"
    if not case.exists():
        pytest.skip(f"no {case}")
    shutil.copy(case, tmp_path / "spec-1070-52591-0072.fits")
    with pytest.raises(BadSpectrum, match="a DR7 spSpec file: ask for the spec file of the same ids"):
        make_batch(tmp_path, (1070, 52591, 72))


@pytest.mark.slow
def test_without_a_network_it_says_so_within_20_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/sas/dr17"
    started = time.monotonic()
    with pytest.raises(pipeline.ConfigError, match="expected an archive that answers.*check the network"):
        make_batch(tmp_path, PRESENT, source=url)
    assert time.monotonic() - started < 20
    path = spec_lite_path("26", *PRESENT[0])
    assert f"fetching {path} from {url}" in capsys.readouterr().err


def test_a_bad_file_is_not_kept(shared_data: Path, tmp_path: Path):
    ids = (8521, 58175, 279)
    place = real(tmp_path / "mirror", ids, "v5_13_2")
    place.parent.mkdir(parents=True)
    shutil.copy(shared_data / "odd" / "not-fits-spec-8521-58175-0279.fits", place)
    with pytest.raises(BadSpectrum):
        make_batch(tmp_path / "folder", [ids], source=str(tmp_path / "mirror"))
    assert not real(tmp_path / "folder", ids, "v5_13_2").exists()


def test_no_ids_give_empty_tensors(mirror: Path):
    spec, w, z, ids, norm, zerr = make_batch(mirror, [])
    assert [tuple(t.shape) for t in (spec, w, z, ids, norm, zerr)] == [(0, 3921), (0, 3921), (0,), (0, 3), (0,), (0,)]


def test_ids_of_another_form_are_refused(mirror: Path):
    with pytest.raises(ValueError, match="plate, mjd, fiberid"):
        make_batch(mirror, [(266, 51602)])


def test_an_instrument_without_spec_files_is_refused(mirror: Path):
    with pytest.raises(ValueError, match="desi"):
        make_batch(mirror, PRESENT, "desi")


def test_it_is_a_public_name_of_the_package(mirror: Path):
    assert pipeline.make_batch is make_batch
    assert np.isfinite(make_batch(mirror, np.array(PRESENT))[0].numpy()).all()


@pytest.mark.parametrize(
    "ids",
    [
        ("266.0", "51602", b"1 "),
        (266.0, 51602, 1, None),
        (266, 51602, 1, float("nan")),
        (266, 51602, 1, " 26.0 "),
        b"26/266-51602-1",
        "26.0/266-51602-1",
        "spec-0266-51602-0001.fits",
        [b"266-51602-1"],
        np.array([b"26/266-51602-1"]),
        299489676975171584.0,
        "299489676975171584",
        np.int64(299489676975171584),
    ],
    ids=str,
)
def test_a_batch_reads_ids_as_catalogs_are_read(mirror: Path, ids: object):
    assert make_batch(mirror, ids)[3].tolist() == [[266, 51602, 1]]


@pytest.mark.parametrize(
    "ids",
    [
        (266.7, 51602, 1),
        (266, 51602, None),
        (266, 51602, 1001),
        (266, 51602),
        "rubbish",
        3.72e18,
        pd.DataFrame({"plate": [266], "mjd": [51602], "fiberid": [1]}),
    ],
    ids=str,
)
def test_what_names_no_spectrum_is_refused_in_words(mirror: Path, ids: object):
    with pytest.raises(pipeline.ConfigError, match="ids is"):
        make_batch(mirror, ids)


def test_a_negative_specobjid_is_one_above_2_to_the_63(mirror: Path, catalog: Path):
    frame = targets.read_targets(str(catalog))
    row = frame[frame["specobjid"] >= 2**63].iloc[0]
    found = make_batch(mirror, np.int64(int(row["specobjid"]) - 2**64))
    assert found[3].tolist() == [[row["plate"], row["mjd"], row["fiberid"]]]


def test_a_spectrum_whose_file_has_no_redshift_has_none(mirror: Path, tmp_path: Path):
    from astropy.io import fits

    target = real(tmp_path, PRESENT[0])
    target.parent.mkdir(parents=True)
    with fits.open(real(mirror, PRESENT[0])) as hdus:
        hdus[2].data["Z"] = np.nan
        hdus.writeto(target)
    spec, w, z, *_ = make_batch(tmp_path, PRESENT[:1])
    assert torch.isnan(z).all()
    assert torch.median(spec[w > 0]) == pytest.approx(1)
