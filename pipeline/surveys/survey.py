"""A survey as an object: all that the rest of the pipeline asks of one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.spectra.raw import RawSpectrum
from pipeline.surveys.choosing import Candidates, Choice, Offer
from pipeline.surveys.columns import Columns, Coordinate

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    from pipeline.config import SurveyConfig


Entry: TypeAlias = str | bytes | int | float | Sequence[object]
"""A spectrum as people name it: text, a number, or several numbers."""


Parts: TypeAlias = Generator[tuple[int, int], bytes, bytes]
"""Gives the ranges of a file that are needed, first byte and the one behind the last, and takes the bytes of each,
fewer where the file ends; returns the file without the rest of it, as `Layout.read` takes it. Raises nothing: of a
damaged file it returns what came."""


@dataclass(frozen=True)
class Redshifts:
    """Where the redshifts are that the files of a layout do not have.

    path: key of a target -> the file with its redshift, relative to the release root. read: bytes of that file -> its
    content; raises BadSpectrum. redshift: content and key -> z and its error; raises BadSpectrum, WrongSpectrum.
    """

    path: Callable[[str], str]
    read: Callable[[bytes], Any]
    redshift: Callable[[Any, str], tuple[float, float]]


@dataclass(frozen=True)
class Layout:
    """One way in which an archive keeps spectra.

    path: key of a target -> its file, relative to the release root; raises ConfigError for a key that the layout lacks.
    read: bytes of a file -> its content; raises BadSpectrum for what is no such file. spectrum: content and key -> the
    target's spectrum; raises BadSpectrum, and WrongSpectrum for the content of another target. size: typical bytes of a
    file, of those that are fetched. at_once: most files that a task has in flight. shared: whether a file holds the
    spectra of many targets. places: path -> where mirrors may keep the file instead, each for all files; the path
    itself where that is no other. parts: what of a file is fetched; None: all of it. requests: that a file takes.
    redshifts: where they are, None for layouts whose files have them, or whose targets all have them.
    """

    path: Callable[[str], str]
    read: Callable[[bytes], Any]
    spectrum: Callable[[Any, str], RawSpectrum]
    size: int
    at_once: int
    shared: bool = False
    places: tuple[Callable[[str], str], ...] = ()
    parts: Callable[[], Parts] | None = None
    requests: int = 1
    redshifts: Redshifts | None = None


@dataclass(frozen=True)
class Rows:
    """A block of a catalog's rows as targets.

    table: all coordinates but `target`, and the columns in `sort_by`. lacking: the catalog's column of an id -> the
    rows that have none; these are no targets. remarks: what a user should know -> the rows of which it is true.
    suggested: rows whose reduction is what an id says; None: none.
    """

    table: pa.Table
    lacking: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    remarks: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    suggested: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class CatalogColumns:
    """How the catalogs of a survey become targets.

    candidates: names of a catalog's columns, and those that the user chose, ours -> theirs -> the columns that may
    become ours. choose: which of them do. to_rows: a block of columns by the catalog's names, the chosen names, the URL
    -> targets. sort_by: what orders the targets and tells them apart. keys: a table of targets -> their keys. texts:
    ours -> how their values are read as text, for conditions. further: ours beside the coordinates. All raise
    ConfigError for what cannot be read. stands_for: ours -> those that a catalog needs not have where it has this one.
    settled: those that it needs not have where an archive is asked. is_key: whether text names a target. keywords: of
    a FITS file's first header, which become columns. beside: name of a FITS file's first table -> those behind it
    that have the same rows, and whose columns are read with its own.
    """

    candidates: Callable[[Sequence[str], Mapping[str, str]], Candidates]
    choose: Callable[[Offer], Choice]
    to_rows: Callable[[Columns, Mapping[str, str], str], Rows]
    sort_by: tuple[str, ...]
    keys: Callable[[pa.Table], pa.ChunkedArray]
    texts: Mapping[str, Callable[[NDArray[Any]], pa.DictionaryArray]] = field(default_factory=dict)
    further: tuple[str, ...] = ()
    stands_for: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    settled: tuple[str, ...] = ()
    is_key: Callable[[str], bool] = lambda text: False
    keywords: tuple[str, ...] = ()
    beside: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Lookup:
    """How a spectrum is named by people.

    id_column: coordinate that holds one unique whole number per spectrum, 0 for none. columns_of: text such as
    "plate-mjd-fiber" -> the coordinates that it gives, None for other text. names: what may be given, for messages.
    keys_of: an entry as `make_batch` takes it, and the reductions that the folder has -> keys to try, in this order.
    numbers_of: the same -> the whole numbers that the batch gives back. reduction_folders: where a release root keeps
    its reductions. places: key -> files, relative to a folder of the user's own.
    """

    names: str
    columns_of: Callable[[str], Mapping[str, int] | None] = lambda text: None
    id_column: str | None = None
    keys_of: Callable[[Entry, Sequence[str]], list[str]] | None = None
    numbers_of: Callable[[Entry], tuple[int, ...]] | None = None
    reduction_folders: tuple[str, ...] = ()
    places: Callable[[str], Iterator[str]] = lambda key: iter(())


@dataclass(frozen=True)
class Reductions:
    """How the reduction of targets is found where their catalog does not name it.

    column: coordinate that names it, "" where it is unknown; a key without it begins with its slash. unit, noun: the
    coordinates whose targets share one reduction, and what such targets are called. candidates: key of a target and
    the URL of a release root ("" for none) -> names that may be its reduction's; the first is the rule's own answer.
    key: key of a target and a reduction -> the key with it. named: targets whose column was filled in -> the same with
    their keys, and the ids that hold the reduction.
    """

    column: str
    unit: tuple[str, ...]
    noun: str
    candidates: Callable[[str, str], tuple[str, ...]]
    key: Callable[[str, str], str]
    named: Callable[[pd.DataFrame], pd.DataFrame]


@dataclass(frozen=True)
class Search:
    """How targets are found of which a catalog names only the number.

    unknown: the coordinates that say where a target is, and the value of each that says nothing; one such is enough.
    missing: these columns as a catalog has them, for messages. candidates: such targets -> the keys that each may have,
    in the order to try. files: pattern of the files with redshifts, relative to the release root. order: these -> the
    same, in the order to look. keys_in: one of these and targets -> by their place, the keys that they have if it holds
    them; only of those that it may hold. named: targets and their keys -> the targets with all that the keys say.
    """

    unknown: Mapping[str, str | int]
    missing: str
    candidates: Callable[[pd.DataFrame], list[list[str]]]
    files: str
    order: Callable[[list[str]], list[str]]
    keys_in: Callable[[str, pd.DataFrame], dict[int, str]]
    named: Callable[[pd.DataFrame, Sequence[str]], pd.DataFrame]


@dataclass(frozen=True)
class Provenance:
    """What the stores of a survey say of their origin: its name in titles, license, acknowledgement."""

    title: str
    license: str
    acknowledgement: str


@dataclass(frozen=True, kw_only=True)
class Survey:
    """A survey.

    instruments: number of pixels of each wavelength grid that its spectra can be put on. coordinates: by name, in the
    order of the targets table; every survey has `target`, the key, and `z`. layouts: by the name that `--layout` takes,
    the first is the default. path_columns: coordinates whose values decide the form of paths. root: what a release root
    is, for messages. archive: the public release root. public: URLs below which everybody may read without
    credentials. selections: ready-made conditions over its catalog's columns.
    """

    name: str
    instruments: Mapping[str, int]
    coordinates: Mapping[str, Coordinate]
    layouts: Mapping[str, Layout]
    catalog: CatalogColumns
    lookup: Lookup
    provenance: Provenance
    root: str
    archive: str
    public: tuple[str, ...] = ()
    path_columns: tuple[str, ...] = ()
    reductions: Reductions | None = None
    search: Search | None = None
    selections: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        missing = {"target", "z"} - set(self.coordinates)
        if missing:
            raise ValueError(f"survey {self.name!r} has no coordinate {', '.join(sorted(missing))}")

    def require(self, config: SurveyConfig) -> None:
        """Refuse a configuration whose layout or instrument this survey does not have. Raises ConfigError."""
        for key, choices in (("layout", self.layouts), ("instrument", self.instruments)):
            if getattr(config, key) not in choices:
                raise ConfigError(key, getattr(config, key), f"one of {', '.join(choices)}")

    def paths(self, layout: str, keys: Sequence[str]) -> list[str]:
        """Return the file of every target, by its key, relative to the release root. Raises ConfigError."""
        path = self.layouts[layout].path
        return [path(key) for key in keys]
