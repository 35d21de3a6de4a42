"""Open a run to read it: its plan, targets, spectra and encodings, and the row of one target."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from pipeline.catalog import targets as target_table
from pipeline.errors import ConfigError, RefusedError
from pipeline.results import quality
from pipeline.results import stack as stacks
from pipeline.results.data import RunData
from pipeline.results.names import Names, is_one, listed, nearest, places_of, row_among, within
from pipeline.spectra.quality import NO_SPECTRUM, Quality
from pipeline.storage import Place, place
from pipeline.store.arrays import read_region, spectra_url
from pipeline.store.root import ingest_ledger, targets_url
from pipeline.surveys.survey import Entry

GOOD = "the recommended selection"

if TYPE_CHECKING:
    import dask.dataframe as dd
    import specutils
    from matplotlib.figure import Figure

    from pipeline.results.latents.index import LatentIndex
    from pipeline.results.tables.table import ResultsTable, Where


def open_run(root: Place) -> Run:
    """Open a run by its root: a path or any fsspec URL. Raises ConfigError when there is none.

    >>> run = open_run("s3://bucket/dr17")
    """
    return Run(root)


class Run(RunData):
    """A run to read, finished or not, with what analysts do with it. Datasets are lazy.

    Chunks that are not done yet read as their fill. Raises ConfigError when there is no plan at the root.
    """

    def __repr__(self) -> str:
        models = ", ".join(model.name for model in self.plan.models) or "none"
        return f"<Run {self.root}: {self.plan.n_spectra} spectra, models: {models}>"

    def stack(
        self,
        model: str | None = None,
        *,
        by: str = "z",
        bins: int | Sequence[float] | None = None,
        where: Where | None = None,
        weights: str | None = None,
    ) -> xr.Dataset:
        """Return the mean restframe spectra of groups of spectra, in units of their norm.

        by: a column of `table`, such as "z", "class" or "l0". bins: of numbers: the edges, the last of which belongs to
        its bin, or how many bins with equal numbers of spectra (default one); words are groups of their own. where: as
        in `table`; default the recommended selection, `good`. weights: a column of positive numbers, such as
        "sn_median"; default equal ones. A spectrum counts only in the bins that it covers. Done chunk by chunk, on the
        Dask cluster whose client is active, or else in threads here.

        Returns `restframe` and `scatter` (weighted mean and standard deviation) and `count`, shape (K, R), `spectra`,
        shape (K,), for K groups. Raises ConfigError for bins, columns and conditions that cannot be used, and for
        encodings without restframe, rest_first and rest_last.

        >>> stacked = run.stack("sdss_II", by="z", bins=[0, 0.1, 0.2, 0.3])
        """
        found = self.results(model, where=where, good=where is None)
        wave_rest = self.encodings(model).coords.get("wavelength_rest")
        return stacks.stack(found, by, bins, weights, np.empty(0) if wave_rest is None else wave_rest.to_numpy())

    def table(
        self,
        model: str | None = None,
        *,
        columns: str | Sequence[str] | None = None,
        where: Where | None = None,
        lazy: bool = False,
    ) -> pd.DataFrame | dd.DataFrame:
        """Return the results of a model as one table, one row per spectrum; the index is its row in the run.

        model: may be left out when the run has one only. columns: names, default all: the targets' columns, norm, the
        latents l0, l1, ..., every other output without a wavelength, chi2_n (chi2 divided by n_pixels), quality as bits
        and as words, and sample (what the spectrum was to the training of the model: training, validation, neither or
        unknown). where: a condition on any of them, such as "z < 0.1 and quality == 0", or a mask of the run's rows.
        lazy: as a frame of dask, of some 130,000 rows per partition, instead of pandas. `attrs` of pandas' frame hold
        the units, where the data come from, and how to cite. Rows of chunks that are not done are left out;
        `attrs["rows_not_done"]` counts them. Raises ConfigError for columns that there are not, and for conditions that
        cannot be read.

        >>> faint = run.table("sdss_II", where="z < 0.1 and quality == 0")
        """
        found = self.results(model, columns=columns, where=where)
        return found.to_dask() if lazy else found.to_pandas()

    def results(
        self,
        model: str | None = None,
        *,
        columns: str | Sequence[str] | None = None,
        where: Where | None = None,
        good: bool = False,
    ) -> ResultsTable:
        """Return the table of `table` unread, to go through block by block. good: only what `good` keeps."""
        from pipeline.results.tables.table import ResultsTable

        self.encodings(model)  # refuses what cannot be read
        config = self.model(model)
        names = tuple(columns.split(",")) if isinstance(columns, str) else None if columns is None else tuple(columns)
        text = where if isinstance(where, str) else None
        among, what = (None, "") if where is None or text is not None else (np.asarray(where), "chosen rows")
        if good:
            kept = self.good(config.name)
            among, what = (kept, GOOD) if among is None else (among & kept, f"{GOOD}; {what}")
        return ResultsTable(self.root, self.plan, config, names, text, among, what)

    def spectrum(self, name: Entry, model: str | None = None, *, kind: str = "observed") -> specutils.Spectrum:
        """Return one spectrum as a `Spectrum` of specutils, with units, mask and uncertainty.

        name: as `find` takes it. model: may be left out when the run has one only. kind: "observed" (flux, inverse
        variance, mask), "reconstruction" on the same wavelengths, or "restframe", masked where the spectrum does not
        cover it. Flux is in 1e-17 erg s-1 cm-2 Angstrom-1, wavelengths are in Angstrom, vacuum; `meta` has target,
        object_class, z, z_is_fitted, sn_median, quality and model. Needs specutils (the extra `analysis`). Raises
        ConfigError for a name that no target has, for another kind, and where there is no restframe.

        >>> run.spectrum("266-51602-1", kind="restframe").meta["z_is_fitted"]
        False
        """
        from pipeline.results.spectrum import as_specutils, read_spectrum

        return as_specutils(read_spectrum(self, self._names.row(name), model), kind)

    def plot(
        self,
        ids: Entry | Iterable[Entry],
        output: Place | None = None,
        *,
        model: str | Sequence[str] | None = None,
        window: tuple[float, float] | None = None,
        lines: str | Sequence[str] = (),
        smooth: float = 0.0,
        observed_only: bool = False,
        width: float = 13.333,
        attention: bool = False,
    ) -> Figure:
        """Draw spectra with their reconstructions; return the figure, and write it where an output is given.

        ids: one or up to 24, as `find` takes them; one alone is drawn with residual and restframe, several below each
        other. output: a file whose ending says the format (png, pdf, svg, ...). model: a name, or several, which are
        drawn side by side; may be left out when the run has one only. A run without encodings shows spectra alone.
        window: lowest and highest restframe wavelength, Angstrom; lines: names such as "Halpha" or "[O III]"; panels
        that zoom on these. smooth: pixels of a Gaussian, weighted by inverse variance. observed_only: leaves out the
        model where a spectrum has no pixels with weight. width: inches. attention: adds where the encoder looks, for
        one spectrum. Masked pixels and bins that are not covered are shaded. Raises ConfigError for what cannot be
        drawn.
        """
        from pipeline.results.figures.page import View, windows_of
        from pipeline.results.plot import plot_spectra

        rows = [self._names.row(ids)] if is_one(ids) else self._names.rows(listed(ids)).tolist()  # type: ignore[arg-type]
        models = [model] if model is None or isinstance(model, str) else list(model)
        view = View(windows_of(window, [lines] if isinstance(lines, str) else lines), smooth, observed_only, width)
        file = None if output is None else place(output, "--output")
        return plot_spectra(self, rows, file, models=models, view=view, attention=attention)

    def outliers(
        self,
        n: int = 50,
        *,
        model: str | None = None,
        where: Where | None = None,
        output: Place | Sequence[Place] = (),
    ) -> pd.DataFrame:
        """Return the n rarest spectra and why they are rare, the rarest first; the index is the row in the run.

        Ranked by `log_prob` where the run has a density of its latents, else by the distance of the latents from their
        mean, else by the worst run of 20 pixels, else by chi2. where: as in `table`. Columns are those of these that
        there are: log p and its percentile, chi2 per pixel, of restframe regions, too, the worst run with its
        wavelengths and the nearest line, distances of the whitened latents from the mean and from the 5 nearest
        spectra, quality, and `reason`, all of it in words. `attrs` say what they are ranked by, what is missing and
        why, and how many spectra were left out. output: files to write: a table, .csv, .ecsv, .parquet or .fits, or a
        contact sheet, .pdf or .png. Raises ConfigError for what cannot be ranked.

        >>> reasons = run.outliers(5, where="class == 'GALAXY'")["reason"]
        """
        from pipeline.results.latents.outliers import find_outliers

        files = _places(output)
        found = find_outliers(self.results(model, where=where), n, lambda: self.index(model))
        marks = found.values.get("run_wavelength", np.full(len(found.rows), np.nan)).tolist()
        found.write(self, files, found.values["reason"].tolist(), marks)
        return found.frame()

    def similar(
        self,
        spectrum: Entry | None = None,
        *,
        latents: Sequence[float] | NDArray[np.floating[Any]] | None = None,
        n: int = 20,
        model: str | None = None,
        output: Place | Sequence[Place] = (),
    ) -> pd.DataFrame:
        """Return the n spectra whose latents are nearest, the nearest first; the index is the row in the run.

        spectrum: whose, as `find` takes it, or latents: shape (S,), of one that need not be in the run. Distances are
        those of whitened latents; where the run has `latents_cov`, and for a spectrum of it, they are in units of its
        own errors. `attrs["distance_in"]` says which. Exact; equal ones are in the order of the run. Spectra that are
        not done or have no finite latents are left out, and counted in `attrs`. output: as of `outliers`; the contact
        sheet begins with the spectrum itself. Uses `index`. Raises ConfigError.

        >>> nearest = run.similar("266-51602-1", n=3)
        """
        from pipeline.results.latents.similar import find_similar

        if (spectrum is None) == (latents is None):
            raise RefusedError("spectrum", "similar takes a spectrum, or latents", "give one of them")
        files, row = _places(output), None if spectrum is None else self._row(spectrum)
        found = find_similar(self.results(model), n, self.index(model), row, latents)
        said = [f"distance {distance:.3g}" for distance in found.values["distance"]]
        found.write(self, files, said, [np.nan] * len(said), first=row)
        return found.frame()

    def index(self, model: str | None = None, *, remake: bool = False) -> LatentIndex:
        """Return the index of a model's latents that `similar` and `outliers` search; it is made where there is none.

        It lies in the folder `neighbors` of ROOT, or in the user's cache folder where ROOT is on a server or cannot be
        written. remake: where it is refused, since the run has other latents now than it was made of.
        """
        from pipeline.results.latents.index import open_index

        name = self.model(model).name
        if remake or name not in self._indices:
            self._indices[name] = open_index(self.results(name), remake=remake)
        return self._indices[name]

    def problems(self) -> pd.DataFrame:
        """Return the spectra whose files are missing or bad, one row each: row, target, quality in words, reason.

        Of the chunks that are ingested. Runs of earlier versions recorded no reasons.
        """
        ledger = ingest_ledger(self.root, self.plan)
        found: list[tuple[int, str, str]] = []
        for record in ledger.records(ledger.done()).values():
            if not any(record["quality"].get(bit.name) for bit in NO_SPECTRUM):
                continue
            reasons = record.get("reasons", {})
            start, stop = record["start"], record["stop"]
            found_bits = read_region(spectra_url(self.root), ["quality"], start, stop)["quality"]
            for row in np.flatnonzero(found_bits & np.uint32(NO_SPECTRUM)).tolist():
                words = Quality.describe(int(found_bits[row]) & int(NO_SPECTRUM))
                found.append(
                    (start + row, words, reasons.get(str(start + row), "not recorded by the version that made the run"))
                )
        found.sort()
        rows = [row for row, _, _ in found]
        return pd.DataFrame(
            {
                "row": rows,
                "target": self._targets["target"].iloc[rows].tolist(),
                "quality": [words for _, words, _ in found],
                "reason": [reason for _, _, reason in found],
            }
        )

    @overload
    def find(self, ids: str | int) -> int: ...

    @overload
    def find(self, ids: Iterable[Entry]) -> Any: ...  # noqa: ANN401 - (plate, mjd, fiberid) is one, a list is several

    @overload
    def find(self, *, position: object, radius: float = 2.0) -> NDArray[np.intp]: ...

    def find(
        self,
        ids: Entry | Iterable[Entry] | None = None,
        *,
        position: object = None,
        radius: float = 2.0,
    ) -> int | NDArray[np.intp]:
        """Return the rows of spectra: by their names, or by positions on the sky.

        ids: one name gives its row; a list, tuple, array or column of names gives an array of rows in this order, shape
        (N,). A name is a target's key, such as "run2d/plate-mjd-fiberid", or another one: SDSS takes
        "plate-mjd-fiberid", (plate, mjd, fiberid), (plate, mjd, fiberid, run2d) and a specobjid, too; DESI a TARGETID
        that one spectrum of the run has. position: (ra, dec) in degrees, or a SkyCoord; one gives the rows within the
        radius, the nearest first; arrays of M positions give the nearest row of each, shape (M,), -1 where there is
        none. radius: arcsec.

        Raises ConfigError for a name that no target has, or several have.

        >>> rows = run.find(["266-51602-1", "266-51602-162"])
        """
        if position is not None:
            if ids is not None:
                raise RefusedError("ids", "find takes names or a position", "give one of them")
            return self._near(position, radius)
        if ids is None:
            raise ConfigError("ids", None, "names of spectra, or position=(ra, dec)")
        return self._names.row(ids) if is_one(ids) else self._names.rows(listed(ids))  # type: ignore[arg-type]

    def quality(self, model: str | None = None) -> pd.DataFrame:
        """Return the quality bits of every spectrum decoded: a column of truth per bit, by its name in lower case.

        model: may be left out when the run has one only.
        """
        return quality.bits(self._quality(self.model(model).name))

    def quality_table(self) -> pd.DataFrame:
        """Return a row per quality bit: its meaning, whether spectra with it have latents, and how many have it.

        A column for the spectra, and one for each model that has begun. The row "good" counts those without any bit.
        """
        stores = {"spectra": self._quality(None)}
        for name in self.models:
            with suppress(RefusedError):
                stores[name] = self._quality(name)
        return quality.counted(stores, self.plan.unusable)

    def good(self, model: str | None = None) -> NDArray[np.bool_]:
        """Return which spectra belong to the recommended selection for science, shape (n_spectra,), bool.

        They have latents, lie in the domain of the model (`OUT_OF_DOMAIN`), have a redshift without warning
        (`z_fit_warning` of models that find it, else `zwarning`, where the survey has it), a norm from the usual
        window, enough pixels, and chi2_n of at most 6. `NOT_GOOD` in `pipeline.results.quality` lists the bits. Rows
        that are not done are not good. What it keeps of mocks and of real spectra is on the page "Results". model: may
        be left out when the run has one only.
        """
        return quality.good(self.results(model))

    @cached_property
    def _indices(self) -> dict[str, LatentIndex]:
        return {}

    @cached_property
    def _names(self) -> Names:
        return Names(self._targets, self.plan.survey.lookup)

    def _row(self, name: Entry) -> int:
        """Return the row of one spectrum; the targets of a whole survey are not read into memory for it."""
        if "_targets" in self.__dict__:
            return self._names.row(name)
        survey, url = self.plan.survey, targets_url(self.root)
        return row_among(lambda names: target_table.read_columns(url, names, survey), survey.lookup, name)

    def _near(self, position: object, radius: float) -> NDArray[np.intp]:
        missing = [name for name in ("ra", "dec") if name not in self.plan.coordinates]
        if missing:
            raise RefusedError("position", f"the targets have no column {missing[0]}", "keep it: targets --keep")
        if not radius > 0:
            raise ConfigError("radius", radius, "a positive number of arcsec")
        ra, dec = (self._targets[name].to_numpy(np.float64) for name in ("ra", "dec"))
        places = places_of(position)
        if places.ndim == 1:
            return within(ra, dec, (float(places[0]), float(places[1])), radius)
        return nearest(ra, dec, places, radius)

    def _quality(self, model: str | None) -> NDArray[np.uint32]:
        """Read the quality bits of the spectra, or of a model."""
        opened = self.spectra() if model is None else self.encodings(model)
        return opened["quality"].to_numpy()


def _places(output: Place | Sequence[Place]) -> list[str]:
    """Return the files to write. Raises ConfigError for one whose ending is no format, before anything is done."""
    from pipeline.results.latents.found import ENDINGS
    from pipeline.results.tables.files import ending_of

    several = [output] if isinstance(output, str | PathLike) else list(output)
    places = [place(each, "--output") for each in several]
    for each in places:
        ending_of(each, ENDINGS)
    return places
