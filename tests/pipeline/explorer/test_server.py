"""What a window shows is what the run has when it opens; without latents there is a map, too."""

from __future__ import annotations

from pathlib import Path

import pytest

import pipeline
from pipeline.explorer.columns import Columns
from pipeline.explorer.page import Explorer
from pipeline.explorer.server import Charts, load_extensions, make_server, tunnel
from pipeline.explorer.view import Map
from pipeline.store.root import encode_ledger
from tests.pipeline.conftest import MakeRun, model_config
from tests.pipeline.explorer.conftest import NOT_DONE

pytestmark = pytest.mark.slow


def test_windows_share_the_columns_until_more_is_done(run: pipeline.Run) -> None:
    charts = Charts(run, "toy")
    first = charts.current()
    assert charts.current() is first
    assert not first.columns.done[NOT_DONE].any()
    ledger = encode_ledger(run.root, run.plan, "toy")
    record = ledger.records(ledger.done())[1]
    ledger.mark(2, {**record, "start": NOT_DONE[0], "stop": NOT_DONE[-1] + 1})
    again = charts.current()
    assert again is not first
    assert again.columns.done.all()


def test_a_run_without_latents_is_shown_by_other_numbers(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "run", models=(model_config(variables=("chi2", "n_pixels")),))
    run = pipeline.open_run(tmp_path / "run")
    chart = Map(Columns(run.results("toy")))
    assert {chart.first_view().x, chart.first_view().y} <= set(chart.columns.numbers)
    load_extensions()
    page = Explorer(run, "toy", chart)
    page.page()
    page.row = 1
    assert not page._message.visible
    assert page._neighbors.value.empty
    assert "chi2" in page._row.object.index


def test_the_address_is_of_this_machine_and_has_a_token(run: pipeline.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    server, url = make_server(run, "toy")
    try:
        assert url.startswith("http://127.0.0.1:")
        monkeypatch.delenv("SSH_CONNECTION", raising=False)
        assert tunnel(url) is None
        monkeypatch.setenv("SSH_CONNECTION", "192.0.2.1 1 192.0.2.2 22")
        port = url.split(":")[2].split("/")[0]
        assert f"ssh -N -L {port}:127.0.0.1:{port} " in str(tunnel(url))
    finally:
        server.stop()
