from __future__ import annotations

import shutil
import threading
import warnings
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

import pipeline
from pipeline.results.batch import make_batch
from pipeline.spectra.raw import BadSpectrum
from pipeline.surveys.sdss.files import read_spec
from pipeline.surveys.sdss.layouts import spec_lite_path

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
