"""A notebook plans, does and opens a run through the Python functions alone, on a client of its own."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

CELLS = (
    """
    import pipeline
    from distributed import Client, LocalCluster

    cluster = LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None)
    client = Client(cluster)
    """,
    """
    targets = pipeline.select_targets({catalog!r}, where="PLATE == 266 and FIBERID < 170")
    plan = pipeline.plan("run", targets=targets, source={mirror!r}, models=["sdss-demo"], shard=2)
    """,
    """
    summary = pipeline.run("run", client=client)
    """,
    """
    run = pipeline.open_run("run")
    print(run.encodings()["latents"].shape, pipeline.status("run").finished, summary.done)
    """,
    """
    client.close()
    cluster.close()
    """,
)


def test_a_notebook_does_a_run_on_its_own_client(tmp_path: Path, mirror: Path, catalog: Path) -> None:
    sources = [
        "\n".join(line.removeprefix("    ") for line in cell.strip("\n").splitlines()).format(
            catalog=str(catalog), mirror=str(mirror)
        )
        for cell in CELLS
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    NotebookClient(
        notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = ["".join(each.get("text", "") for each in cell.outputs) for cell in notebook.cells]
    assert outputs[1] == "", "plan prints nothing"
    assert "chunk" in outputs[2], "the bar counts chunks"
    assert outputs[3].startswith("(4, ")
    assert outputs[3].endswith(" True 4\n")
