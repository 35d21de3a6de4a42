"""Find the rows of spectra by their names, or by positions on the sky."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.errors import ConfigError, RefusedError
from pipeline.surveys.survey import Entry, Lookup

Rows = NDArray[np.intp]

MOST_NAMED = 5
"""Spectra that a message names."""

ARCSEC = 1 / 3600
"""Degrees."""


class Names:
    """The targets of a run by their names: keys, numbers such as plate, MJD and fiber, or the survey's id.

    frame: one row per spectrum. lookup: how the survey's spectra are named.
    """

    def __init__(self, frame: pd.DataFrame, lookup: Lookup) -> None:
        self._frame = frame
        self._lookup = lookup

    def row(self, entry: Entry) -> int:
        """Return the row of one spectrum. Raises ConfigError when none is meant, or several are."""
        rows = self.matches(entry)
        keys = self._frame["target"].iloc[rows[:MOST_NAMED]].tolist()
        return _only_one(entry, rows, keys, self._frame["target"].iloc[0], self._lookup)

    def rows(self, entries: Iterable[Entry]) -> Rows:
        """Return the rows of several spectra, in their order; raises as `row`, for the first that is not there."""
        listed = list(entries)
        found = np.full(len(listed), -1, np.intp)
        texts = [_text(entry) for entry in listed]
        for index in (self._keys, self._ids):
            known = {i: _as(index, texts[i]) for i in np.flatnonzero(found < 0)} if index is not None else {}
            known = {i: value for i, value in known.items() if value is not None}
            if index is not None and known:
                found[list(known)] = index.get_indexer(pd.Index(list(known.values()), dtype=index.dtype))
        for i in np.flatnonzero(found < 0):
            found[i] = self.row(listed[i])
        return found

    @cached_property
    def _keys(self) -> pd.Index:
        return pd.Index(self._frame["target"].astype(object))

    @cached_property
    def _ids(self) -> pd.Index | None:
        column = self._lookup.id_column
        if column is None or not self._frame[column].is_unique:
            return None
        return pd.Index(self._frame[column])

    def matches(self, entry: Entry) -> Rows:
        """Return the rows of all spectra that a name may mean."""
        frame, lookup, text = self._frame, self._lookup, _text(entry)
        numbers = lookup.columns_of(text)
        if numbers:
            mask = np.logical_and.reduce([frame[name] == value for name, value in numbers.items()])
        elif (number := _number(text)) and lookup.id_column is not None:
            ids = frame[lookup.id_column]
            # as one of its own type: numpy compares others by floats, which cut such numbers
            is_possible = number <= np.iinfo(ids.dtype).max
            mask = ids == ids.dtype.type(number) if is_possible else np.zeros(len(ids), np.bool_)
        else:
            mask = frame["target"] == text
        rows = np.flatnonzero(np.asarray(mask, dtype=bool))
        if len(rows) or not numbers:
            return rows
        ends = frame["target"].str.endswith(f"/{text}")  # whose last number is another id than the fiber's
        return np.flatnonzero(np.asarray(ends, dtype=bool))


def row_among(pieces: Callable[[list[str]], Iterable[pd.DataFrame]], lookup: Lookup, entry: Entry) -> int:
    """Return the row of one spectrum, as `Names.row`, of targets that are not in memory as a whole.

    pieces: names of columns -> these, some rows after the others.
    """
    wanted = {"target", *(lookup.columns_of(_text(entry)) or ()), *([lookup.id_column] if lookup.id_column else [])}
    rows: list[int] = []
    keys: list[str] = []
    start, first = 0, ""
    for frame in pieces(sorted(wanted)):
        own = Names(frame, lookup).matches(entry)
        rows += (start + own).tolist()
        keys += frame["target"].iloc[own[:MOST_NAMED]].tolist()
        first = first or str(frame["target"].iloc[0])
        start += len(frame)
    return _only_one(entry, rows, keys[:MOST_NAMED], first, lookup)


def _only_one(entry: Entry, rows: Sequence[int] | Rows, keys: Sequence[str], first: str, lookup: Lookup) -> int:
    """Return the only one of rows. Raises ConfigError for none, and for several, naming some."""
    if len(rows) == 1:
        return int(rows[0])
    if len(rows) == 0:
        remedy = f"ids are written as {lookup.names}; the first target is {first}"
        raise RefusedError("id", f"no target of this run has the id {_plain(entry)!r}", remedy)
    remedy = f"name one of them: {', '.join(keys)}"
    raise RefusedError("id", f"the id {_plain(entry)!r} fits {len(rows)} targets of this run", remedy)


def is_one(ids: object) -> bool:
    """Tell whether an argument names one spectrum.

    That is text, a number, (plate, mjd, fiberid) with or without run2d, or (survey, program, healpix, targetid).
    """
    if isinstance(ids, str | bytes | int | float | np.number | np.str_):
        return True
    parts = ids.tolist() if isinstance(ids, np.ndarray) else ids
    if not isinstance(parts, list | tuple) or len(parts) not in (3, 4):
        return False
    if len(parts) == 4 and all(isinstance(each, str) for each in parts[:2]):
        return all(isinstance(each, int | np.integer) for each in parts[2:])
    return all(isinstance(each, int | np.integer) and 0 <= int(each) < 2**31 for each in parts[:2])


def listed(ids: object) -> list[Entry]:
    """Return several names as a list: a list, a column of a table, or an array with a spectrum in each row.

    Raises ConfigError for what is none of these.
    """
    if isinstance(ids, pd.DataFrame | Mapping) or not isinstance(ids, Iterable):
        remedy = "give the keys of its spectra, such as table['target']"
        raise ConfigError("ids", type(ids).__name__, "names of spectra", remedy)
    values = ids.to_numpy() if hasattr(ids, "to_numpy") else ids
    array = np.asarray(values) if isinstance(values, np.ndarray) else None
    return array.tolist() if array is not None else list(values)


def within(ra: NDArray[Any], dec: NDArray[Any], place: tuple[float, float], radius: float) -> Rows:
    """Return the positions within a radius of a place, the nearest first.

    ra, dec: degrees, shape (N,). place: (ra, dec), degrees. radius: arcsec.
    """
    rows = np.flatnonzero(np.abs(dec - place[1]) <= radius * ARCSEC)
    distance = separation(ra[rows], dec[rows], place)
    near = distance <= radius
    return rows[near][np.argsort(distance[near], kind="stable")]


def nearest(ra: NDArray[Any], dec: NDArray[Any], places: NDArray[np.float64], radius: float) -> Rows:
    """Return, for each of M places, shape (M, 2), the nearest position within a radius; -1 for none. See `within`."""
    order = np.argsort(dec, kind="stable")
    heights = dec[order]
    found = np.full(len(places), -1, np.intp)
    starts = np.searchsorted(heights, places[:, 1] - radius * ARCSEC, "left")
    stops = np.searchsorted(heights, places[:, 1] + radius * ARCSEC, "right")
    for i, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        rows = order[start:stop]
        distance = separation(ra[rows], dec[rows], (places[i, 0], places[i, 1]))
        if len(rows) and distance.min() <= radius:
            found[i] = rows[np.argmin(distance)]
    return found


def separation(ra: NDArray[Any], dec: NDArray[Any], place: tuple[float, float]) -> NDArray[np.float64]:
    """Return the distance of positions from a place on the sky, arcsec (haversines: exact for small ones, too)."""
    a, d = np.radians(ra), np.radians(dec)
    a0, d0 = np.radians(place)
    h = np.sin((d - d0) / 2) ** 2 + np.cos(d) * np.cos(d0) * np.sin((a - a0) / 2) ** 2
    return np.asarray(np.degrees(2 * np.arcsin(np.sqrt(np.clip(h, 0, 1)))) / ARCSEC)


def places_of(position: object) -> NDArray[np.float64]:
    """Return positions as (ra, dec) in degrees, shape (2,) of one or (M, 2).

    position: (ra, dec), two arrays of them, or a SkyCoord of astropy. Raises ConfigError for others.
    """
    try:
        sky = position.icrs if hasattr(position, "icrs") else None
        pair = position if sky is None else (sky.ra.deg, sky.dec.deg)
        ra, dec = (np.asarray(each, np.float64) for each in pair)  # type: ignore[attr-defined]
        places = np.stack(np.broadcast_arrays(ra, dec), axis=-1)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError("position", position, "(ra, dec) in degrees, or a SkyCoord") from error
    if places.ndim > 2 or not (np.abs(places) <= (360, 90)).all():  # NaN is refused, too
        raise ConfigError("position", position, "(ra, dec) in degrees, ra from 0 to 360, dec from -90 to 90")
    return places


def _text(entry: object) -> str:
    """Return a name as text, its parts joined as in keys.

    These are plate-mjd-fiberid, run2d/plate-mjd-fiberid and survey-program-healpix-targetid.
    """
    if isinstance(entry, bytes):
        return entry.decode("utf-8", "replace").strip()
    if isinstance(entry, str):
        return entry.strip()
    if isinstance(entry, Sequence | np.ndarray):
        parts = [_text(part) for part in entry]
        is_sdss = len(parts) == 4 and not isinstance(entry[0], str)
        return f"{parts[3]}/{'-'.join(parts[:3])}" if is_sdss else "-".join(parts)
    if isinstance(entry, float | np.floating) and float(entry).is_integer():
        return str(int(entry))
    return str(entry)


def _number(text: str) -> int | None:
    """Return an id that is one whole number below 2**64; a negative one is an unsigned id that was read as signed."""
    digits = text.removeprefix("-")
    if not (digits.isdecimal() and len(digits) <= 20):
        return None
    number = int(text)
    return number % 2**64 if -(2**63) <= number < -1 or 0 < number < 2**64 else None


def _as(index: pd.Index, text: str) -> Any:  # noqa: ANN401 - of the index's type
    """Return a name as an index has them; None for one that it cannot have."""
    if index.dtype == object:
        return text
    number = _number(text)
    return None if number is None or number > np.iinfo(index.dtype).max else number


def _plain(entry: Entry) -> object:
    return entry.item() if isinstance(entry, np.generic) else entry
