"""A survey as an object: all that the rest of the pipeline asks of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError
from pipeline.spectra.raw import RawSpectrum
from pipeline.surveys.columns import Columns, Coordinate

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.config import SurveyConfig


@dataclass(frozen=True)
class Layout:
    """One way in which an archive keeps spectra.

    path: key of a target -> its file, relative to the release root; raises ConfigError for a key that the layout lacks.
    read: bytes of a file -> its content; raises BadSpectrum for what is no such file. spectrum: content and key -> the
    target's spectrum; raises BadSpectrum, and WrongSpectrum for the content of another target. size: typical bytes of a
    file. at_once: most files that a task has in flight. shared: whether a file holds the spectra of many targets.
    """

    path: Callable[[str], str]
    read: Callable[[bytes], Any]
    spectrum: Callable[[Any, str], RawSpectrum]
    size: int
    at_once: int
    shared: bool = False


@dataclass(frozen=True)
class CatalogColumns:
    """How the catalogs of a survey become targets.

    choose: names of a catalog's columns and its URL -> our names to theirs. to_table: a block of columns and the URL ->
    a table of all coordinates but `target`, and of the columns in `sort_by`. sort_by: what orders the targets and tells
    them apart. keys: such a table -> the keys of its targets. remarks: the whole table -> what a user should know, with
    the number of rows. All raise ConfigError for what cannot be read.
    """

    choose: Callable[[Sequence[str], str], dict[str, str]]
    to_table: Callable[[Columns, str], pa.Table]
    sort_by: tuple[str, ...]
    keys: Callable[[pa.Table], pa.ChunkedArray]
    remarks: Callable[[pa.Table], dict[str, int]] = lambda table: {}


@dataclass(frozen=True)
class Lookup:
    """How a spectrum is named by people.

    id_column: coordinate that holds one unique whole number per spectrum, 0 for none. columns_of: text such as
    "plate-mjd-fiber" -> the coordinates that it gives, None for other text. names: what may be given, for messages.
    keys_of: numbers as `make_batch` takes them, and the reductions that the folder has -> keys to try, in this order.
    numbers_of: the same -> the whole numbers that the batch gives back. reduction_folders: where a release root keeps
    its reductions. places: key -> files, relative to a folder of the user's own.
    """

    names: str
    columns_of: Callable[[str], Mapping[str, int] | None] = lambda text: None
    id_column: str | None = None
    keys_of: Callable[[Sequence[int | str], Sequence[str]], list[str]] | None = None
    numbers_of: Callable[[Sequence[int | str]], tuple[int, ...]] | None = None
    reduction_folders: tuple[str, ...] = ()
    places: Callable[[str], Iterator[str]] = lambda key: iter(())


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
    is, for messages. archive: the public release root. selections: ready-made conditions over its catalog's columns.
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
    path_columns: tuple[str, ...] = ()
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
