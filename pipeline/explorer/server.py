"""The server of the explorer: on this machine alone, and for those who have the token of the URL."""

from __future__ import annotations

import getpass
import logging
import os
import secrets
import socket
from collections.abc import Callable
from typing import Any

import holoviews as hv
import panel as pn
from bokeh.server.auth_provider import AuthProvider
from tornado.web import RequestHandler
from tornado.websocket import WebSocketClosedError

from pipeline.errors import ConfigError
from pipeline.explorer.columns import Columns
from pipeline.explorer.embedding import read_map
from pipeline.explorer.page import Explorer
from pipeline.explorer.view import Map
from pipeline.results.run import Run

ADDRESS = "127.0.0.1"
PATH = "explore"
_COOKIE = "spender-explorer"


class Refused(RequestHandler):
    """What those see who come without the token."""

    def get(self) -> None:
        """Say it in words."""
        self.set_status(403)
        self.finish(
            "<!doctype html><title>not allowed</title><p>This page wants the token that <code>spender-pipeline "
            "explore</code> has printed: open the whole address, with everything behind <code>?token=</code>.</p>"
        )


class Token(AuthProvider):  # type: ignore[misc]
    """Lets in who has the token, by the URL at first and by a cookie then."""

    login_url = "/refused"
    login_handler = Refused
    get_login_url = None
    logout_url = None
    logout_handler = None
    get_user_async = None

    def __init__(self, token: str) -> None:
        self._token = token

    @property
    def get_user(self) -> Callable[[RequestHandler], str | None]:
        """The function that says who asks; None is nobody."""
        return self._user

    def _user(self, handler: RequestHandler) -> str | None:
        name = f"{_COOKIE}-{handler.request.host.rpartition(':')[2]}"  # cookies do not know ports: several may be open
        given = handler.get_argument("token", "") or handler.get_cookie(name) or ""
        if not secrets.compare_digest(given.encode(), self._token.encode()):
            return None
        if handler.request.headers.get("Upgrade", "").lower() != "websocket":
            handler.set_cookie(name, self._token, httponly=True, samesite="Strict")
        return "you"


class Charts:
    """The columns of a run in memory, once for all windows; read again when more of the run is done."""

    def __init__(self, run: Run, model: str) -> None:
        self._run, self._model = run, model
        self._chart: Map | None = None

    def current(self) -> Map:
        """Return what a window that opens now shows."""
        table = self._run.results(self._model)
        if self._chart is None or self._chart.columns.table.done != table.done:
            self._chart = Map(Columns(table), read_map(table))
        return self._chart


def make_server(run: Run, model: str, port: int = 0) -> tuple[Any, str]:
    """Return the server of a run's explorer, not yet started, and the URL of its page.

    port: 0 takes a free one. Raises ConfigError for one that is taken, and for runs that have nothing to show.
    """
    load_extensions()
    charts = Charts(run, model)
    charts.current().first_view()  # refuses what cannot be shown, before anybody waits for a page
    token = secrets.token_urlsafe(24)
    port = port or _free_port()
    try:
        server = pn.serve(
            {PATH: lambda: Explorer(run, model, charts.current()).page()},
            port=port,
            address=ADDRESS,
            websocket_origin=[f"{host}:{port}" for host in (ADDRESS, "localhost")],
            show=False,
            start=False,
            verbose=False,
            auth_provider=Token(token),
        )
    except OSError as error:
        raise ConfigError("--port", port, "a port that is free", "leave it out to take a free one") from error
    return server, f"http://{ADDRESS}:{port}/{PATH}?token={token}"


def load_extensions() -> None:
    """Make HoloViews and Panel ready for pages."""
    logging.getLogger("bokeh").setLevel(logging.ERROR)
    logging.getLogger("asyncio").addFilter(_is_of_open_window)
    hv.extension("bokeh")
    pn.extension("tabulator", notifications=False, exception_handler=quiet)


def _is_of_open_window(record: logging.LogRecord) -> bool:
    """Return False for what is logged when a window is closed before it has got all that it asked for."""
    return record.exc_info is None or not isinstance(record.exc_info[1], WebSocketClosedError)


def quiet(error: BaseException) -> None:
    """Leave alone what a page has said in words; whatever else a widget raises goes to the terminal."""
    if not isinstance(error, (ConfigError, OSError)):
        logging.getLogger(__name__).error("the explorer failed", exc_info=error)


def tunnel(url: str) -> str | None:
    """Return the command that brings the page to another machine, where this one is reached by ssh; None elsewhere."""
    if "SSH_CONNECTION" not in os.environ:
        return None
    port = url.split(":")[2].split("/")[0]
    return f"ssh -N -L {port}:{ADDRESS}:{port} {getpass.getuser()}@{socket.gethostname()}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return int(probe.getsockname()[1])
