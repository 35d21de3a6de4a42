"""The Python surface: what the command line does, for scripts and notebooks.

Every function takes a path or any fsspec URL where it says `Place`, returns its result and prints nothing. What is
imported here at once is light: torch and Dask take longer to start than `status` to answer.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from numbers import Integral
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from pipeline.config import require_choice, require_positive
from pipeline.errors import ConfigError, RefusedError, require_ending
from pipeline.monitor.status import RunStatus, read_status
from pipeline.planning.stages import STAGES
from pipeline.storage import Place, place
from pipeline.store import clients
from pipeline.store.root import ledgers, read_plan
from pipeline.version import __version__

if TYPE_CHECKING:
    from distributed import Client

    from pipeline.catalog.targets import Selection
    from pipeline.compute.choice import ModelChoice
    from pipeline.compute.executor import Progress, Summary
    from pipeline.compute.planner import Targets
    from pipeline.compute.units import Progress as Settling
    from pipeline.planning.estimate import Estimate
    from pipeline.planning.plan import Plan
    from pipeline.store.verify import Findings


Only: TypeAlias = str | int | slice | Sequence[str | int]
"""Targets by their ids, or rows of a run."""

T = TypeVar("T")


def select_targets(
    catalog: Place,
    *,
    select: str | Sequence[str] = (),
    where: str | None = None,
    output: Place | None = None,
    survey: str | None = None,
    columns: Mapping[str, str] | None = None,
    keep: str | Sequence[str] = (),
    unique: bool = False,
    skip_incomplete: bool = False,
    run2d: str = "auto",
    source: Place | None = None,
    layout: str | None = None,
    fetch: bool = True,
    progress: Settling | None = None,
) -> Selection:
    """Select targets from a catalog of any size.

    catalog: FITS ("file.fits[2]" for an extension), CSV and its like, a list of keys, VOTable, ECSV or Parquet, a
    folder of Parquet files or a pattern. select: names of ready-made conditions, such as "main-galaxies"; where: one on
    the catalog's columns or ours, such as "CLASS == 'GALAXY' and 0 < Z < 0.5"; all of them must hold. output: Parquet
    file to write the targets to. survey: whose catalog it is, default by its columns. columns: ours to the catalog's,
    such as {"z": "redshift"}, where the choice by names and values will not do. keep: further columns, which become
    coordinates with their units. unique: of rows that repeat a spectrum take the first. skip_incomplete: leave out rows
    without the ids of a spectrum. run2d: the reduction of targets that name none; "auto" finds it by one file for each
    plate. source: a release root where that, and redshifts that the catalog lacks, are looked for, default the survey's
    archive; where one is given, also redshifts of single rows, and a file of every reduction. layout: the source's.
    fetch: False asks no archive: reductions are by rule alone, and z stays unknown. progress: is called with what is
    looked for, how much of it was found, and of how much. Returns the targets, one row per spectrum, the number of rows
    read, what was decided, and remarks. Raises ConfigError for what cannot be read, lacks columns or ids, repeats
    others or is in no file, and where no row matches.

    >>> targets = select_targets("specObj-dr17.fits", select="main-galaxies")
    """
    from pipeline.archive.answers import require_server
    from pipeline.catalog import recognition, targets
    from pipeline.catalog.where import combined
    from pipeline.compute.settle import settling

    url, made = place(catalog, "CATALOG"), None if output is None else place(output, "--output")
    where_from = None if source is None else place(source, "--source")
    if made == url:
        raise ConfigError("--output", str(output), "a file other than the catalog", "the catalog would be overwritten")
    if made is not None:
        require_ending("--output", made, ".parquet")
    recognition.publish_archives()
    require_server(url)
    with recognition.opened_as(survey, os.fspath(catalog), columns or {}) as (opened, known, said):
        found = targets.find_targets(
            os.fspath(catalog),
            combined(known.selections, _listed(select), where),
            survey=known,
            columns=columns,
            keep=_listed(keep),
            unique=unique,
            skip_incomplete=skip_incomplete,
            settle=settling(known, run2d, where_from, layout, fetch, progress),
            check=source is not None and fetch,
            opened=opened,
            said=said,
        )
    if made is not None:
        targets.write_targets(found.frame, made, survey=known, kept=found.kept)
    return found


def plan(
    root: Place,
    *,
    targets: Targets | Sequence[Targets] | None = None,
    source: Place | None = None,
    models: ModelChoice | Sequence[ModelChoice] = (),
    config: Place | None = None,
    survey: str | None = None,
    layout: str | None = None,
    instrument: str | None = None,
    variables: Sequence[str] | None = None,
    precision: str | None = None,
    micro_batch: int | None = None,
    redshift: str | None = None,
    redshift_window: float | None = None,
    density: Place | None = None,
    shard: int | None = None,
    chunk: int | None = None,
    concurrency: int | None = None,
    max_requests: int | None = None,
    max_requests_per_second: float | None = None,
    retries: int | None = None,
    cache: Place | None = None,
    storage: Mapping[str, Mapping[str, object]] | None = None,
    expect: int | None = None,
    keep: str | Sequence[str] = (),
    extend: bool = False,
    single_client: bool = False,
) -> Plan:
    """Define what a run does, or add models or targets to the plan that is there; what is left out stays as planned.

    root: folder of the run. targets: what `select_targets` returned, its frame, or the Parquet file of it; several are
    those that the run was planned and extended with, in any order, and restore a lost targets.parquet. source: release
    root, the folder that holds sdss/ and eboss/. models: checkpoints (files, URLs, published names, "NAME=checkpoint",
    or ModelConfig); default for a new plan on the sdss grid: sdss-galaxies. config: TOML file with the same settings,
    instead of them. variables, precision, micro_batch: of the models named here. redshift: theirs, too, "catalog"
    (default), "refine" within redshift_window km/s of the catalog's (default 3000), or "blind", which looks over all
    that a model covers and asks nothing of the catalog. density: of their latents, a file that `train_density` made, a
    URL or the name of a published flow: a stage of its own scores them; a run that is done repeats nothing else.
    storage: by prefix, how to reach buckets for which the environment is not enough, such as {"s3://bucket":
    {"anonymous": True}}. survey, layout, instrument: whose spectra, how the source arranges its files, which grid;
    default SDSS's spec-lite files on the sdss grid. shard, chunk: spectra per task and per unit of reading.
    concurrency, max_requests, max_requests_per_second: files in flight of a task and of the run, and the rate of the
    run. retries: of a file. cache: folder or bucket that is looked in before the source, and filled. expect: spectra
    that the run will grow to, which sizes shard and chunk. keep: columns of a frame that become coordinates beside the
    survey's; a table's further columns always do. extend: add those targets that the run does not have yet, behind the
    others; what is done stays done. single_client: as in `run`. Returns the plan. Raises ConfigError for invalid
    settings and a full disk, WeightsError for a checkpoint that cannot be used.

    >>> plan("s3://bucket/dr17", targets=targets, source="https://data.sdss.org/sas/dr17", models=["sdss_II"])
    """
    from pipeline.compute import planner

    settings = {
        "survey": survey,
        "source": None if source is None else place(source, "--source"),
        "layout": layout,
        "instrument": instrument,
        "shard": shard,
        "chunk": chunk,
        "expect": expect,
        "concurrency": concurrency,
        "max_requests": max_requests,
        "max_requests_per_second": max_requests_per_second,
        "retries": retries,
        "cache": None if cache is None else place(cache, "--cache"),
        "storage": storage,
    }
    return planner.plan(
        place(root, "ROOT"),
        targets=targets,
        settings={key: value for key, value in settings.items() if value is not None},
        models=_listed(models),
        config=None if config is None else place(config, "--config"),
        variables=variables,
        precision=precision,
        micro_batch=micro_batch,
        redshift=redshift,
        redshift_window=redshift_window,
        density=None if density is None else os.fspath(density),
        keep=_listed(keep),
        extend=extend,
        single_client=single_client,
    )


def estimate(root: Place) -> Estimate:
    """Return what the pending chunks of a run will take: requests, bytes to fetch and to store, time.

    root: folder of the run. The rates behind it were measured on one machine: it is right within a factor of two.
    """
    from pipeline.compute.planner import estimate_of

    url = place(root, "ROOT")
    return estimate_of(url, read_plan(url))


def drop_model(root: Place, model: str) -> Plan:
    """Take a model out of a run: out of its plan, with its encodings and their markers. Returns the plan that is left.

    root: folder of the run. model: its name in the plan. Raises ConfigError for a name that the plan does not have,
    and while a client works on the run.
    """
    from pipeline.compute import planner

    return planner.drop_model(place(root, "ROOT"), model)


def run(
    root: Place,
    *,
    client: Client | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    serial: bool = False,
    stages: str | Sequence[str] = STAGES,
    models: str | Sequence[str] | None = None,
    memory_limit: str | int | None = None,
    wait: float | None = None,
    gpu: bool = False,
    kinds: str | Sequence[str] | None = None,
    max_requests_per_second: float | None = None,
    only: Only | None = None,
    retry: str | Sequence[str] = (),
    accept_missing: bool = False,
    single_client: bool = False,
    progress: Progress | bool = True,
) -> Summary:
    """Do what is pending in a run: ingest, encode and score, then finalize where all of its stages were asked for.

    root: folder of the run. client: any Dask client, which stays open; or scheduler: the address of a cluster; or
    workers: processes on this machine (default one per core); or serial: in this process. stages, models: only these.
    memory_limit: of each worker on this machine, such as "4 GB". wait: seconds for a cluster to be there, and for its
    first worker; default 50, and no limit where the cluster of the client grows by itself. max_requests_per_second:
    instead of the plan's. gpu: require a GPU to encode. kinds: of workers that the cluster will have, "CPU" and "GPU",
    where both will come: then these only encode, those only ingest, whoever comes first; default: as they come.
    only: ids of targets, or a slice of rows; just their chunks are done, to try a run. retry: "no_file", "bad_file",
    "wrong_file": chunks with such spectra are done again. accept_missing: go on where more than half of the spectra
    have no file, or a bad one: else the run is refused, once, when 500 spectra are there. single_client: nobody else
    works on the run, on a server without conditional writes. progress: True for a bar on a terminal or in a notebook
    and lines in a log, False for none, or an object of your own. Returns how it ended. Raises ConfigError for what can
    be refused, ChunksFailed when chunks failed after all others were done, Unfinished when targets were added
    meanwhile, ConnectionError when the scheduler is lost.

    >>> run("s3://bucket/dr17", client=client)
    """
    from pipeline.compute import access, work
    from pipeline.compute.workers import scheduler as asked
    from pipeline.monitor.progress import SchedulerCounters, Tee, make_progress
    from pipeline.monitor.run_log import Journal

    url = place(root, "ROOT")
    stages, models = _listed(stages), None if models is None else _listed(models)
    for stage in stages:
        require_choice("stages", stage, STAGES)
    if not stages:
        raise ConfigError("stages", stages, f"some of {', '.join(STAGES)}")
    if wait is not None:
        require_positive("wait", wait)
    kinds = None if kinds is None else _listed(kinds)
    for kind in kinds or ():
        require_choice("kinds", kind, ("CPU", "GPU"))
    made = read_plan(url)
    made.require_current()
    names = [made.model(name).name for name in models] if models else [model.name for model in made.models]
    command = "run" if len(stages) > 1 else stages[0]
    wanted = work.Work(
        url,
        command,
        stages,
        names,
        chunks=None if only is None else _chunks(url, only),
        retry=access.bits_of(_listed(retry)),
        per_second=max_requests_per_second,
        accept_missing=accept_missing,
    )
    facts = {"command": command, "version": __version__, "stages": list(stages), "models": names}
    shown = [make_progress()] if progress is True else [] if progress is False else [progress]

    def progress_of(here: Client | None) -> Progress:
        counted = [] if here is None else [SchedulerCounters(partial(asked.on_scheduler, here))]
        return Tee(Journal(url, facts), *shown, *counted)

    def say(text: str) -> None:
        for each in shown:
            each.say(text)

    clients.require_writable(url)
    return work.do(
        wanted,
        work.Place(client, scheduler, workers, serial, memory_limit, wait, gpu, kinds),
        progress_of,
        say,
        closes=set(stages) >= {ledger.stage for ledger in ledgers(url, made)} | {"encode"} and only is None,
        single_client=single_client,
    )


def _chunks(root: str, only: Only) -> frozenset[int]:
    """Return the chunks that hold some targets."""
    from pipeline.results.run import open_run

    opened = open_run(root)
    n = opened.plan.n_spectra
    if isinstance(only, slice):
        bounds = (only.start, only.stop)
        if only.step is not None or not all(each is None or isinstance(each, int) and each >= 0 for each in bounds):
            raise ConfigError("only", only, "rows that count from 0, such as 0:100")
        rows: Iterable[int] = range(*only.indices(n))
        if not rows:
            shown = ":".join("" if each is None else str(each) for each in bounds)
            raise RefusedError("only", f"the run has no rows {shown}", f"choose some of 0:{n}")
    else:
        ids = [only] if isinstance(only, str | int | Integral) else only
        rows = [opened.find(each) for each in ids]
        if not rows:
            raise RefusedError("only", "no targets are named", "name some, or rows such as 0:100")
    return frozenset(row // opened.plan.shard for row in rows)


def finalize(root: Place) -> list[str]:
    """Complete the stores of a run whose chunks are all done, and return their URLs; `run` does it at its end.

    root: folder of the run. Raises Unfinished, naming the chunks that are not done.
    """
    from pipeline.store import finalize as closing
    from pipeline.store.verify import recheck_grown

    url = place(root, "ROOT")
    made = read_plan(url)
    made.require_current()
    clients.require_writable(url)
    with clients.closing(url, "finalize"):
        made = read_plan(url)
        recheck_grown(url, made)
        return closing.finalize(url, made)


def status(root: Place) -> RunStatus:
    """Return how far a run is, read from its markers: chunks, spectra by quality bit, rate, time left.

    root: folder of the run.

    >>> status("s3://bucket/dr17").stages[0].done
    """
    url = place(root, "ROOT")
    made = read_plan(url)
    return RunStatus(url, made.n_spectra, tuple(read_status(url, made)), tuple(clients.alive(url)))


def verify(root: Place, *, repair: bool = False) -> Findings:
    """Read every chunk of a run again and compare it with its marker's checksums.

    root: folder of the run. repair: rewrite the metadata of the stores where they are damaged, and remove the
    markers of damaged chunks, so that `run` does them again. Returns what is wrong, one sentence each, and what was
    repaired. Raises OSError when storage does not answer.
    """
    from pipeline.store import verify as verification

    url = place(root, "ROOT")
    made = read_plan(url)
    if not repair:
        return verification.verify(url, made)
    made.require_current()
    with clients.closing(url, "verify --repair"):
        return verification.verify(url, read_plan(url), repair=True)


def report(root: Place, output: Place) -> str:
    """Write the report of a run as one HTML file that needs no other file; return where it is.

    root: folder of the run. output: file to write, .html. Raises ConfigError for another ending.
    """
    from pipeline.monitor.report import write_page

    require_ending("--output", place(output, "--output"), ".html", ".htm")
    write_page(place(root, "ROOT"), place(output, "--output"))
    return place(output, "--output")


def _listed(several: T | Sequence[T]) -> tuple[T, ...]:
    """Return a sequence unchanged, and wrap a single item in one."""
    if isinstance(several, Sequence) and not isinstance(several, str):
        return tuple(several)
    return (several,)
