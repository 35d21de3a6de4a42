"""Which bytes of a coadd file are fetched: the HDUs that are read, and no resolution, which is four fifths of it.

In the file follow one another: the tables of targets and of exposures, and of each arm wavelength, flux, ivar, mask and
resolution. So the beginning is one range, and each arm one; headers say where these begin, and the number of targets
how long they are. What is not as expected costs further requests, never a wrong result.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from pipeline.spectra.raw import BadSpectrum
from pipeline.surveys.desi.coadd import ARMS, NEEDED, TABLE
from pipeline.surveys.fits import Header, Truncated, read_header
from pipeline.surveys.survey import Parts

HEAD = 2**18
"""Bytes that are fetched first: the tables of some 500 targets."""

_SLACK = 2**15  # bytes that headers may take more than expected
_LONGEST_HEADER = 2**19
_MOST = 2**29  # bytes of an HDU that is believed: the flux of 40,000 targets
_PIXELS = {"B": 2751, "R": 2326, "Z": 2881}
_BLOCK = 2880

_Asking = Generator[tuple[int, int], bytes, None]


@dataclass
class _Window:
    """A stretch of the file that came. has_ended: whether the file ends with it."""

    start: int = 0
    data: bytes = b""
    has_ended: bool = False

    @property
    def end(self) -> int:
        return self.start + len(self.data)

    def extend(self, end: int) -> _Asking:
        """Ask for the bytes up to there that are missing."""
        if self.end < end and not self.has_ended:
            asked = end - self.end
            more = yield self.end, end
            self.data = self.data + more if self.data else more
            self.has_ended = len(more) < asked

    def move(self, start: int, size: int) -> _Asking:
        """Make sure that there is something from there on; ask for so many bytes where there is nothing yet.

        And for the byte before: it tells a file that ends there from one that ends earlier.
        """
        if start >= self.end and not self.has_ended:
            self.start, self.data = max(0, start - 1), b""
            yield from self.extend(start + size)

    def at(self, start: int, end: int) -> bytes:
        return self.data[start - self.start : end - self.start]


def parts() -> Parts:
    """Give the ranges of a coadd file that are needed; return a file of the HDUs in `NEEDED`."""
    window = _Window()
    kept: list[bytes] = []
    missing = set(NEEDED)
    expected = _Expected()
    position = ahead = 0
    passed_over = b""
    while missing:
        yield from window.move(position, expected.size(missing) if position else HEAD)
        if window.end < position:
            kept.append(passed_over)  # truncated in what is not needed: its header says so
            break
        if window.end == position:
            break  # the file ends here
        header = yield from _header(window, position)
        if header is None:
            kept.append(window.at(position, position + _BLOCK))  # for the reader to refuse
            break
        end = window.start + header.next_start
        if position == 0 or header.name in missing:
            if header.name.endswith("_WAVELENGTH"):
                ahead = position + expected.size(missing)  # the arm's further images follow
            missing.discard(header.name)
            if window.end < end < position + _MOST:
                yield from window.extend(max(end, ahead))
            kept.append(window.at(position, end))
            if window.end < end:
                break
        passed_over = window.at(position, window.start + header.data_start)
        expected.learn(header)
        position = end
    return b"".join(kept)


def _header(window: _Window, position: int) -> Generator[tuple[int, int], bytes, Header | None]:
    """Read the header that begins there; None where there is none."""
    while True:
        try:
            header = read_header(window.data, position - window.start)
            _ = header.next_start  # of sizes that can be read
            return header
        except Truncated:
            if window.has_ended or window.end - position >= _LONGEST_HEADER:
                return None
            yield from window.extend(window.end + _SLACK)
        except BadSpectrum:
            if window.has_ended or window.end - position > _BLOCK:
                return None
            yield from window.extend(position + _SLACK)


@dataclass
class _Expected:
    """How long the next stretch is, by the headers so far. targets: their number. per_mask: bytes of a mask's pixel."""

    targets: int = 0
    per_mask: float = 4.0

    def learn(self, header: Header) -> None:
        """Take from a header what it says of the next stretch; its sizes can be read."""
        if header.name == TABLE and header.integer("NAXIS", 0) == 2:
            self.targets = header.integer("NAXIS2")
        pixels = self.targets * _PIXELS.get(header.name[:1], 0)
        if header.name.endswith("_MASK") and pixels:
            self.per_mask = min(4.0, header.data_size / pixels)

    def size(self, missing: set[str]) -> int:
        """Return the bytes of the next arm up to its resolution, of something short where no arm is expected."""
        arm = next((arm for arm in ARMS if f"{arm}_FLUX" in missing), None)
        if arm is None or TABLE in missing:
            return _SLACK
        per_target = _PIXELS[arm] * (4 + 4 + self.per_mask)
        return min(_MOST, int(self.targets * per_target) + 8 * _PIXELS[arm] + _SLACK)
