"""Who works on a run: one small object per client, renewed while its work lasts.

    <root>/clients/<id>.json     host, pid, command, version; when it started and was last renewed

A client that ends removes its object. A killed one leaves it, and counts as alive until ALIVE seconds after its last
renewal.

Clients that do chunks work side by side. One that changes the plan, or adds targets, must not meet another that does,
or one that describes or closes stores by an earlier plan. Each shows first what it does, and looks at the others then,
so that of two one sees the other.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from pipeline import storage
from pipeline.errors import RefusedError
from pipeline.signals import check
from pipeline.version import __version__

logger = logging.getLogger(__name__)

RENEWAL = 30.0  # seconds
# Longer than the slowest renewal: s3fs may take over a minute for one request, with all its attempts.
ALIVE = 180.0  # seconds
PLANNING = "plan"
"""How the commands begin that change the plan."""

STORES, CHUNKS = "stores", "chunks"
"""What a client does: it describes or closes stores, or it does chunks by a plan whose stores stand."""

_LOOK = 1.0  # seconds between two looks at a client that is waited for
# How long a client that ends waits for its thread: a request under way cannot be stopped.
_PATIENCE = 10.0  # seconds

_FOLDER = "clients"
_ENDING = ".json"
_UNKNOWN = "unknown"


@dataclass(frozen=True)
class ClientRecord:
    """A client that works on a run.

    command, doing: what it was started for, and what it does now, STORES or CHUNKS. started: UTC. age: seconds since
    the last renewal, by the storage's clock.
    """

    id: str
    host: str
    pid: int
    command: str
    doing: str
    version: str
    started: str
    age: float


class Presence:
    """Shows others that this process works on a run, while the context lasts.

    Entering it raises what writing to ROOT raises. Later failures are logged, and the work goes on: others take this
    client for gone when they have lasted for ALIVE seconds.
    """

    def __init__(self, root: str, command: str) -> None:
        host = socket.gethostname()
        self.id = f"{re.sub(r'[^A-Za-z0-9.-]', '-', host)[:64]}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._url = _url(root, self.id)
        self._content = {"host": host, "pid": os.getpid(), "command": command, "version": __version__, "doing": STORES}
        self._failing = False
        self._ended = threading.Event()
        # Of this context, so that the thread reaches storage as its client does.
        self._thread = threading.Thread(target=copy_context().run, args=(self._keep,), name="presence", daemon=True)

    def __enter__(self) -> Presence:
        self._content["started"] = _text(time.time())
        self._write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(_PATIENCE)

    def show(self, doing: str) -> None:
        """Show what this client does from now on. Raises what writing to ROOT raises."""
        self._content = {**self._content, "doing": doing}
        self._write()

    def _keep(self) -> None:
        """Renew the object until the work ends, then remove it."""
        while not self._ended.wait(RENEWAL):
            self._renew()
        # Here, and not in the client's thread: a renewal under way would write the object again.
        try:
            storage.remove(self._url)
        except Exception as error:  # of whatever kind: the work is done
            logger.warning("%s could not be removed, and counts for %g s: %s", self._url, ALIVE, error)

    def _renew(self) -> None:
        try:
            self._write()
        except Exception as error:  # of whatever kind: the work goes on without
            if not self._failing:
                logger.warning("%s could not be renewed, and is tried every %g s: %s", self._url, RENEWAL, error)
            self._failing = True
        else:
            self._failing = False

    def _write(self) -> None:
        storage.write_json(self._url, {**self._content, "renewed": _text(time.time())})


def alive(root: str, *, besides: str | None = None) -> list[ClientRecord]:
    """Return the clients whose object was written less than ALIVE seconds ago, the earliest start first.

    One listing, and one read for each object that is young. Raises OSError when the storage does not answer.

    besides: the id of the caller's own Presence, which is left out. Whoever acts on the answer gives it. All times are
    then by the storage's clock: ages are taken at the last renewal of the caller's object, so they are never too large,
    and too small by a renewal at most. Without it nothing says what the time is there but this machine's clock, or an
    object that is younger. A slow clock then shows killed clients for longer; one that is fast by more than
    ALIVE - RENEWAL misses living ones.

    A damaged object is a client of an unknown host. Where the storage keeps no times, the clocks of the clients and
    of this machine decide, and damaged objects are skipped.
    """
    listed = storage.modified(storage.join(root, _FOLDER)).items()
    moments = {name.removesuffix(_ENDING): moment for name, moment in listed if name.endswith(_ENDING)}
    now = _now(moments, besides)
    records = [
        _read(root, client, moment, now)
        for client, moment in moments.items()
        if client != besides and (moment is None or now - moment < ALIVE)
    ]
    found = [record for record in records if record is not None and record.age < ALIVE]
    return sorted(found, key=lambda record: (record.started, record.id))


@contextmanager
def working(
    root: str, command: str, *, single_client: bool = False, say: Callable[[str], None] = logger.warning
) -> Iterator[Presence]:
    """Show others that this process does chunks of a run; it begins when nobody changes the plan any more.

    Two may work side by side where the storage creates an object only if there is none. single_client: the user says
    that nobody else does; another one that is seen is refused. say: shows a message while it waits. Raises ConfigError
    where two clients could undo each other's work.
    """
    require_conditions(root, single_client)
    with Presence(root, command) as presence:
        if single_client:
            refuse(root, alive(root, besides=presence.id))
        wait_for_planners(root, presence, say)
        yield presence


@contextmanager
def closing(root: str, command: str, say: Callable[[str], None] = logger.warning) -> Iterator[None]:
    """Show others that this process closes or repairs stores; it begins when nobody changes the plan any more."""
    with Presence(root, command) as presence:
        wait_for_planners(root, presence, say)
        yield


@contextmanager
def planning(root: str, command: str, *, single_client: bool = False) -> Iterator[Presence]:
    """Show others that this process changes the plan of a run. Raises ConfigError where another one does, too.

    command: begins with PLANNING. single_client: as in `working`.
    """
    require_conditions(root, single_client)
    with Presence(root, command) as presence:
        others = alive(root, besides=presence.id)
        refuse(root, others if single_client else [each for each in others if _plans(each)])
        yield presence


def wait_for_planners(root: str, presence: Presence, say: Callable[[str], None]) -> None:
    """Wait until nobody else changes the plan of a run; say whom one waits for."""
    said = False
    while planners := [each for each in alive(root, besides=presence.id) if _plans(each)]:
        if not said:
            say(f"waiting: {_named(planners[0])} changes the plan of {root}; three minutes more if it was killed")
            said = True
        time.sleep(_LOOK)
        check()


def require_writable(root: str) -> None:
    """Refuse a ROOT that cannot be written. Raises ConfigError."""
    storage.require_writable("ROOT", root, _FOLDER)


def require_conditions(root: str, single_client: bool) -> None:
    """Refuse a server that replaces an object where it should create one, unless nobody else works on the run.

    Raises ConfigError.
    """
    if not single_client and not conditional_writes(root):
        ignores = f"the server of ROOT, {storage.server(root)}, ignores If-None-Match"
        problem = f"{ignores}: two clients could undo each other's work"
        remedy = "use another server, or pass --single-client if nobody else works on this run"
        raise RefusedError("ROOT", problem, remedy)


def refuse(root: str, others: Sequence[ClientRecord]) -> None:
    """Refuse to go on beside other clients of a run. Raises ConfigError."""
    if others:
        problem = f"another client works on {root}: {_named(others[0])}"
        raise RefusedError("ROOT", problem, "wait until it has ended; three minutes more if it was killed")


def _named(client: ClientRecord) -> str:
    return f"`spender-pipeline {client.command}` on {client.host}, since {client.started}"


def _plans(client: ClientRecord) -> bool:
    return client.command.startswith(PLANNING)


def conditional_writes(root: str) -> bool:
    """Tell whether the storage of ROOT creates an object only if there is none, by creating one twice.

    Local disks do. Servers that ignore the condition say nothing: `storage.create_bytes` replaces what is there.
    """
    if storage.local_path(root) is not None:
        return True
    # Among the objects of clients, where what a killed one leaves is nobody's data.
    probe = storage.join(root, _FOLDER, f"{uuid.uuid4().hex}.conditional")
    try:
        storage.create_bytes(probe, b"")
        return not storage.create_bytes(probe, b"")
    finally:
        storage.remove(probe)


def _now(moments: Mapping[str, float | None], besides: str | None) -> float:
    """Return the time by the storage's clock, as far as a listing says; see `alive`."""
    own = moments.get(besides) if besides else None
    if own is not None:
        return own
    return max([time.time(), *(moment for moment in moments.values() if moment is not None)])


def _read(root: str, client: str, moment: float | None, now: float) -> ClientRecord | None:
    """Return what a client's object says, None for one that is gone, or damaged and of unknown age."""
    try:
        content = storage.read_json(_url(root, client))
        age = time.time() - _seconds(content["renewed"]) if moment is None else now - moment
        return _record(client, content, max(age, 0.0))
    except (FileNotFoundError, IsADirectoryError):
        return None
    except (ValueError, KeyError, TypeError):
        if moment is None:
            return None
        return ClientRecord(client, _UNKNOWN, 0, _UNKNOWN, STORES, _UNKNOWN, _text(moment), max(now - moment, 0.0))


def _record(client: str, content: Mapping[str, Any], age: float) -> ClientRecord:
    texts = [content[key] for key in ("host", "command", "doing", "version", "started")]
    if not isinstance(content["pid"], int) or not all(isinstance(text, str) for text in texts):
        raise TypeError(client)
    host, command, doing, version, started = texts
    return ClientRecord(client, host, content["pid"], command, doing, version, started, age)


def _url(root: str, client: str) -> str:
    return storage.join(root, _FOLDER, f"{client}{_ENDING}")


def _text(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
