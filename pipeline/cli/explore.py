"""`explore`: the run in a browser, on this machine."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from importlib.util import find_spec

from pipeline.cli.arguments import Verb, root_of
from pipeline.errors import RefusedError

_PACKAGES = ("bokeh", "datashader", "holoviews", "panel", "param", "scipy", "tornado", "umap")


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--model", metavar="NAME", help="model of the plan (default: its only one)")
    parser.add_argument("--port", metavar="N", type=int, default=0, help="port of the page (default: a free one)")
    parser.add_argument(
        "--make-map",
        action="store_true",
        help="make a map of the latents by UMAP, of at most 50,000 spectra, and keep it in the run: minutes",
    )
    parser.add_argument("--no-browser", action="store_true", help="print the address, and open no browser")


def _execute(args: Namespace) -> int:
    from pipeline.results.run import open_run

    run = open_run(root_of(args))
    name = run.model(args.model).name
    if missing := [package for package in _PACKAGES if find_spec(package) is None]:
        problem = f"what it needs is not installed: {', '.join(missing)}"
        raise RefusedError("explore", problem, "pip install 'spender-pipeline[explorer]'")
    from pipeline.explorer.server import make_server, tunnel

    if args.make_map:
        from pipeline.explorer.embedding import store_map

        print(f"map: {store_map(run, name, lambda text: print(text, file=sys.stderr))}")
    server, url = make_server(run, name, args.port)
    print(f"{url}\nCtrl-C ends it", flush=True)
    if (command := tunnel(url)) is not None:
        print(f"from your own machine, first: {command}", flush=True)
    server.start()
    if not args.no_browser and command is None:
        import webbrowser

        webbrowser.open(url)
    try:
        server.io_loop.start()
    except KeyboardInterrupt:
        print("ended", file=sys.stderr)
    finally:
        server.stop()
    return 0


EXPLORE = Verb("explore", "see the spectra of a run in a browser: a map, spectra, selections", _execute, _add_options)
