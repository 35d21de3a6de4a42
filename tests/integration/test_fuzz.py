"""Damaged files of every kind: a quality bit or a spectrum that can be used, never anything else.

SPENDER_FUZZ says how many mutations are tried (default 1,000); each has its own seed, named when it fails.
"""

from __future__ import annotations

import collections
import os
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy as np
import pytest

from pipeline.mock.coadds import write_coadds
from pipeline.spectra.normalize import Grid, normalize
from pipeline.spectra.quality import Quality
from pipeline.spectra.raw import BadSpectrum, RawSpectrum
from pipeline.surveys.desi.coadd import read_coadd
from pipeline.surveys.desi.redrock import read_redrock
from pipeline.surveys.sdss.files import read_plate, read_spec
from spender_core import BOSS, DESI, SDSS
from tests import desi_release
from tests.plates import assemble

MUTATIONS = int(os.environ.get("SPENDER_FUZZ", "1000"))
SECONDS = 20
"""For one file, which takes milliseconds: what it takes longer hangs."""

Random = np.random.Generator
CARD, BLOCK = 80, 2880
KEYWORDS = b"NAXIS NAXIS1 NAXIS2 BITPIX PCOUNT GCOUNT TFIELDS TFORM1 TFORM3 TTYPE1 TTYPE2 TTYPE3 TZERO1 TSCAL1".split()
KEYWORDS += b"COEFF0 COEFF1 PLATEID MJD XTENSION SIMPLE END BSCALE BZERO".split()
KEYWORDS += b"EXTNAME HPXPIXEL ZIMAGE ZBITPIX ZNAXIS ZNAXIS1 ZNAXIS2 ZTILE1 ZTILE2 ZCMPTYPE NAXIS3".split()
VALUES = (
    b"0 1 -1 2 3 8 -32 7 80 2880 999999999 99999999999999999999 -2147483648 1E308 NAN INF 'E' '9999999999E' T".split()
)
VALUES += [b"'1PE(9)'", b"''", b"'flux'", b"'loglam'", b"", b"-32768", b"3.5", b"'BINTABLE'", b"'IMAGE'"]
WORDS = [np.float32(v).astype(">f4").tobytes() for v in (np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, -1.0, 0.0)]


def flip_bytes(data: bytearray, random: Random) -> None:
    for position in random.integers(len(data), size=random.integers(1, 200)):
        data[position] = random.integers(256)


def flip_header(data: bytearray, random: Random) -> None:
    for position in random.integers(min(len(data), 12 * BLOCK), size=random.integers(1, 20)):
        data[position] = random.integers(256)


def truncate(data: bytearray, random: Random) -> None:
    del data[random.integers(len(data)) :]


def remove(data: bytearray, random: Random) -> None:
    unit = int(random.choice([1, CARD, BLOCK]))
    start = int(random.integers(max(1, len(data) // unit))) * unit
    del data[start : start + unit * int(random.integers(1, 5))]


def insert(data: bytearray, random: Random) -> None:
    unit = int(random.choice([1, CARD, BLOCK]))
    start = int(random.integers(max(1, len(data) // unit))) * unit
    data[start:start] = random.bytes(unit * int(random.integers(1, 4)))


def repeat(data: bytearray, random: Random) -> None:
    start = int(random.integers(max(1, len(data) // BLOCK))) * BLOCK
    data[start:start] = data[start : start + BLOCK * int(random.integers(1, 8))]


def edit_card(data: bytearray, random: Random) -> None:
    """Give header cards other values, wherever in the file their keywords stand."""
    for _ in range(random.integers(1, 4)):
        keyword = KEYWORDS[random.integers(len(KEYWORDS))].ljust(8)
        places = [at for at in range(0, len(data) - CARD, CARD) if data[at : at + 8] == keyword]
        if places:
            at = places[random.integers(len(places))]
            value = VALUES[random.integers(len(VALUES))]
            data[at : at + CARD] = (keyword + b"= " + value.rjust(20)).ljust(CARD)


def overwrite(data: bytearray, random: Random) -> None:
    """Put odd numbers in the place of others, singly or in long runs."""
    length = int(random.choice([1, 10, 4000]))
    start = int(random.integers(max(1, len(data) // 4))) * 4
    word = WORDS[random.integers(len(WORDS))]
    stop = min(len(data), start + 4 * length)
    data[start:stop] = (word * length)[: stop - start]


def cross(data: bytearray, random: Random) -> None:
    """Exchange two stretches of the file."""
    size = BLOCK * int(random.integers(1, 20))
    one, other = (int(random.integers(max(1, (len(data) - size) // BLOCK))) * BLOCK for _ in range(2))
    data[one : one + size], data[other : other + size] = data[other : other + size], data[one : one + size]


MUTATORS: list[Callable[[bytearray, Random], None]] = [
    flip_bytes,
    flip_header,
    truncate,
    remove,
    insert,
    repeat,
    edit_card,
    edit_card,
    overwrite,
    cross,
]


@contextmanager
def at_most(seconds: float, what: str) -> Iterator[None]:
    """Fail when the context takes longer."""

    def late(number: int, frame: FrameType | None) -> None:
        pytest.fail(f"{what} takes more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def spectra_of(data: bytes, is_plate: bool) -> list[RawSpectrum]:
    """Read a file as the pipeline does; what it refuses gives nothing."""
    try:
        if not is_plate:
            return [read_spec(data)]
        plate = read_plate(data)
    except BadSpectrum:
        return []
    found = []
    for fiberid in (1, 2, 3):
        try:
            found.append(plate.spectrum(fiberid))
        except BadSpectrum:
            continue
    return found


def check(raw: RawSpectrum, grid: Grid) -> str:
    """Normalize; hold the result to what the stores promise; tell what became of it."""
    z = raw.z if raw.z is not None else 0.1
    spectrum = normalize(raw, z, grid)
    assert spectrum.flux.shape == spectrum.ivar.shape == grid.wavelength.shape
    assert spectrum.flux.dtype == spectrum.ivar.dtype == np.float32
    assert np.isfinite(spectrum.ivar).all()
    assert (spectrum.ivar >= 0).all()
    if spectrum.quality & Quality.OFF_GRID:  # nothing is stored of it
        assert np.isnan(spectrum.flux).all()
        assert not spectrum.ivar.any()
        return "unusable"
    assert np.isfinite(spectrum.flux).all()
    assert np.isfinite(spectrum.norm)
    assert spectrum.norm > 0
    is_unusable = bool(spectrum.quality & Quality.UNUSABLE)
    assert is_unusable or (spectrum.ivar > 0).any()
    return "unusable" if is_unusable else "remarked" if spectrum.quality else "good"


@pytest.fixture(scope="module")
def originals(shared_data: Path) -> list[tuple[bytes, bool]]:
    """Real files of every reduction, the odd ones, and a plate of three fibers."""
    files = sorted((shared_data / "sas").rglob("spec-*.fits"))
    plates = [assemble(files[i : i + 3], plate=1, mjd=51602) for i in (0, 60)]
    odd = [path.read_bytes() for path in sorted((shared_data / "odd").iterdir()) if path.stat().st_size < 10**6]
    return (
        [(path.read_bytes(), False) for path in files[::3]]
        + [(data, False) for data in odd]
        + [(data, True) for data in plates * 8]
    )


@pytest.mark.timeout(3600)
def test_no_damage_raises_hangs_or_takes_memory(
    originals: list[tuple[bytes, bool]], capsys: pytest.CaptureFixture[str]
) -> None:
    grids = [Grid.of(SDSS()), Grid.of(BOSS())]
    outcomes: collections.Counter[str] = collections.Counter()
    highest = 0.0
    tracemalloc.start()
    try:
        for seed in range(MUTATIONS):
            random = np.random.default_rng(seed)
            original, is_plate = originals[random.integers(len(originals))]
            data = bytearray(original)
            for _ in range(random.integers(1, 4)):
                MUTATORS[random.integers(len(MUTATORS))](data, random)
                data = data or bytearray(b" ")
            damaged = bytes(data)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            with at_most(SECONDS, f"seed {seed}"):
                try:
                    found = spectra_of(damaged, is_plate)
                    shown = [check(raw, grid) for raw in found for grid in grids] or ["refused"]
                except Exception as error:
                    raise AssertionError(f"seed {seed}") from error
            taken = tracemalloc.get_traced_memory()[1] - before
            # A file's columns as numbers, of 8 bytes at most where the file has 4, and some copies on their way.
            assert taken < 20 * len(damaged) + 20 * 2**20, f"seed {seed}"
            highest = max(highest, taken / 2**20)
            outcomes.update(shown)
    finally:
        tracemalloc.stop()
    with capsys.disabled():
        print(f"\n{MUTATIONS} mutations: {dict(outcomes)}, at most {highest:.1f} MiB", end=" ")
    assert set(outcomes) == {"refused", "unusable", "remarked", "good"}


@pytest.fixture(scope="module")
def coadds(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The real coadd, and mock ones of two targets, with plain and with packed masks."""
    folder = tmp_path_factory.mktemp("coadds")
    made = [
        each.coadd
        for packed in (False, True)
        for each in write_coadds(folder / str(packed), desi_release.restframes, 2, packed=packed)
    ]
    real = desi_release.release_of(shared_data) / desi_release.COADD
    # the resolution, of which nothing is read, would take most of the damage
    return [desi_release.in_parts(file.read_bytes())[0] for file in (real, *made)] + [made[1].read_bytes()]


@pytest.mark.timeout(3600)
def test_no_damage_of_a_coadd_raises_hangs_or_takes_memory(
    coadds: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    """Read as a whole and by its ranges, to the same end."""
    grid = Grid.of(DESI())
    outcomes: collections.Counter[str] = collections.Counter()
    for seed in range(MUTATIONS // 4):
        random = np.random.default_rng(seed)
        data = bytearray(coadds[random.integers(len(coadds))])
        for _ in range(random.integers(1, 4)):
            MUTATORS[random.integers(len(MUTATORS))](data, random)
            data = data or bytearray(b" ")
        with at_most(SECONDS, f"seed {seed}"):
            try:
                whole, some = (coadd_spectra(each) for each in (bytes(data), desi_release.in_parts(bytes(data))[0]))
                shown = [check(raw, grid) for raw in whole] or ["refused"]
                outcomes.update(shown)
                assert len(whole) == len(some)
                for one, other in zip(whole, some, strict=True):
                    np.testing.assert_array_equal(one.flux, other.flux)
                    np.testing.assert_array_equal(one.ivar, other.ivar)
            except Exception as error:
                raise AssertionError(f"seed {seed}") from error
    with capsys.disabled():
        print(f"\n{MUTATIONS // 4} mutations of coadds: {dict(outcomes)}", end=" ")
    assert {"refused", "good"} <= set(outcomes)


def coadd_spectra(data: bytes) -> list[RawSpectrum]:
    """Read all spectra of a coadd; what is refused gives nothing."""
    try:
        coadd = read_coadd(data)
    except BadSpectrum:
        return []
    found = []
    for targetid in coadd.rows:
        try:
            found.append(coadd.spectrum(targetid))
        except BadSpectrum:
            continue
    return found


def test_no_damage_of_a_redrock_file_raises(shared_data: Path) -> None:
    original = (desi_release.release_of(shared_data) / desi_release.REDROCK).read_bytes()
    refused = 0
    for seed in range(MUTATIONS // 4):
        random = np.random.default_rng(seed)
        data = bytearray(original)
        MUTATORS[random.integers(len(MUTATORS))](data, random)
        try:
            read_redrock(bytes(data))
        except BadSpectrum:
            refused += 1
    assert 0 < refused < MUTATIONS // 4
