"""How people name a DESI spectrum: by its key, or by its TARGETID where that is there once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.errors import ConfigError
from pipeline.surveys.desi.keys import ids_of
from pipeline.surveys.desi.layouts import healpix_path
from pipeline.surveys.survey import Entry, Lookup

_EXPECTED = "a target's key, or (survey, program, healpix, targetid)"


def key_of(entry: Entry) -> str:
    """Return the key of a spectrum as it was named. Raises ConfigError."""
    if isinstance(entry, bytes):
        entry = entry.decode("utf-8", "replace")
    if isinstance(entry, str):
        text = entry.strip().lower()
    elif isinstance(entry, int | float) or not hasattr(entry, "__len__") or len(entry) != 4:
        raise ConfigError("ids", str(entry), _EXPECTED, "a TARGETID alone does not say where its coadd is")
    else:
        text = "-".join(str(part).strip().lower() for part in entry)
    try:
        ids_of(text)
    except ConfigError as error:
        raise ConfigError("ids", text, _EXPECTED) from error
    return text


def keys_of(entry: Entry, present: Sequence[str]) -> list[str]:
    """Return the key of a spectrum. present: reductions of the folder, which keys do not name."""
    return [key_of(entry)]


def numbers_of(entry: Entry) -> tuple[int, ...]:
    """Return the pixel and the TARGETID of a spectrum as it was named. Raises ConfigError."""
    ids = ids_of(key_of(entry))
    return ids.healpix, ids.targetid


def places(key: str) -> Iterator[str]:
    """Name the places where a folder of the user's own may have the file: by pixel, as upstream has it, and flat."""
    ids = ids_of(key)
    name = healpix_path(ids, "coadd").rsplit("/", 1)[-1]
    yield f"{ids.healpix}/{name}"
    yield name


LOOKUP = Lookup(
    names="SURVEY-PROGRAM-HEALPIX-TARGETID or a TARGETID",
    id_column="targetid",
    keys_of=keys_of,
    numbers_of=numbers_of,
    places=places,
)
"""How DESI spectra are named."""
