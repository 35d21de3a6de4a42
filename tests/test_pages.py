"""What the pages show can be typed: commands have the options, links lead somewhere, Python runs."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest
from dask.distributed import Client

import pipeline
from pipeline.cli.main import parser

REPOSITORY = Path(__file__).resolve().parents[1]
GENERATED = {"_build", "executed", "repository", "api"}
PAGES = [
    *REPOSITORY.glob("*.md"),
    *REPOSITORY.glob("deploy/*.md"),
    *REPOSITORY.glob("benchmarks/*.md"),
    *REPOSITORY.glob("spender_core/data/*.md"),
    *(page for page in REPOSITORY.glob("docs/**/*.md") if not GENERATED & set(page.relative_to(REPOSITORY).parts)),
]
TEXT = {page.relative_to(REPOSITORY).as_posix(): page.read_text(encoding="utf-8") for page in sorted(PAGES)}
FOREIGN = {  # sbatch's, torchrun's and dask's
    *("--account", "--gres", "--mem-per-cpu", "--nnodes", "--no-kill", "--partition", "--rdzv-endpoint", "--resources"),
    *("--no-requeue", "--signal"),
}


def commands(text: str) -> list[str]:
    """What a page shows after the name of the command, lines that go on joined."""
    joined = text.replace("\\\n", " ")
    begins = r"(?:spender-pipeline|python -m pipeline|-m pipeline|deploy/slurm/run\.sbatch|run\.sbatch)"
    return re.findall(rf"^ {{4}}(?:\S.*?\s)?{begins} ([a-z].*)$", joined, re.MULTILINE)


def verbs() -> dict[str, argparse.ArgumentParser]:
    (found,) = (each for each in parser()._actions if isinstance(each, argparse._SubParsersAction))
    return dict(found.choices)


COMMANDS = [(page, command) for page, text in TEXT.items() for command in commands(text)]
OPTIONS = {option for verb in verbs().values() for option in verb._option_string_actions} | set(
    parser()._option_string_actions
)


def test_pages_show_every_verb() -> None:
    assert {shlex.split(command, comments=True)[0] for _, command in COMMANDS} >= set(verbs()) - {"demo"}


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_commands_have_the_options_that_a_page_shows(page: str, command: str) -> None:
    words = shlex.split(command, comments=True)
    assert parser().parse_args(words).command == words[0]


@pytest.mark.parametrize("page", TEXT)
def test_a_page_names_no_options_that_there_are_not(page: str) -> None:
    if page in ("CHANGELOG.md", "benchmarks/RESULTS.md") or page.startswith("spender_core/data/"):
        pytest.skip("it names those of benchmarks and of earlier versions")
    prose = re.sub(r"^(?: {4}|\|? ?`?make ).*$", "", TEXT[page], flags=re.MULTILINE)
    for code in re.findall(r"`((?:spender-pipeline )?(?:--|[a-z]+ )[^`\n]+)`", prose):
        verb, *_ = code.removeprefix("spender-pipeline ").split()
        if verb in verbs() or verb.startswith("--"):
            known = set(verbs()[verb]._option_string_actions) if verb in verbs() else OPTIONS | FOREIGN
            assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", code)) <= known, code


@pytest.mark.parametrize("page", TEXT)
def test_links_to_files_of_the_repository_lead_to_what_exists(page: str) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", TEXT[page]):
        in_site = re.sub(r"^((?:\.\./)*)repository/", r"\1../", link) if page.startswith("docs/") else link
        if "://" not in link:
            assert (REPOSITORY / page).parent.joinpath(in_site).exists(), link


# What is replaced before a page's Python is run: places, models that must be fetched, and ids of other spectra.
ELSEWHERE = {
    '"https://data.sdss.org/sas/dr17"': "MIRROR",
    '"specObj-dr17.fits"': "CATALOG",
    "sdss_II": "sdss-galaxies",
    '"./DATA"': "MIRROR",
    "((412, 52254, 308), (412, 52250, 129))": "((266, 51630, 486), (266, 51630, 168))",
    '"2488-54149-1"': '"266-51630-168"',
    '"266-51602-1"': '"266-51630-168"',
    "(266, 51602, 1)": "(266, 51630, 168)",
    "299489676975171584": "'26/266-51630-174'",
    "[0.1, -0.4, ...]": "[0.1] * 12",
    "n=200": "n=24",
    'settings, losses = PRESETS["paper2"]': (
        'from dataclasses import replace\nsettings, losses = PRESETS["paper2"]\n'
        "settings = replace(settings, epochs=2, batch_size=4)"
    ),
}
PYTHON = {page: re.findall(r"```python\n(.*?)```", text, re.DOTALL) for page, text in TEXT.items()}
BEFORE = {
    "README.md": "",
    "docs/howto/few_spectra.md": "",
    "docs/howto/full_survey.md": "",
    "docs/howto/mock_surveys.md": "",
    "docs/outliers.md": "",
    "docs/redshifts.md": "",
    "docs/reference/checkpoints.md": "",
    "docs/results.md": "from astropy.coordinates import SkyCoord\nfrom astropy.table import Table\n"
    "other = Table({'ra': [146.7], 'dec': [-1.0]}, units={'ra': 'deg', 'dec': 'deg'})\nids = ['266-51630-168']",
    "docs/training.md": "",
}
BY_OTHERS = {"deploy/slurm.md"}  # tests/integration/test_slurm.py runs it


def test_python_of_all_pages_is_run() -> None:
    assert {page for page, blocks in PYTHON.items() if blocks} == set(BEFORE) | BY_OTHERS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, demo: tuple[Path, str], mirror: Path, catalog: Path) -> Path:
    """Give a folder with the demo, a run of real galaxies by three models, and two by one of them."""
    made = tmp_path_factory.mktemp("pages")
    (made / "demo").symlink_to(demo[0])
    fits = pipeline.ModelConfig(
        name="fits", checkpoint="sdss-galaxies", variables=("latents", "latents_fit", "latents_cov", "chi2_fit")
    )
    models = ["sdss-galaxies", "sdss-demo", fits]
    targets = pipeline.select_targets(catalog, where="CLASS == 'GALAXY' and ZWARNING == 0 and Z < 0.5").frame
    first = targets["mjd"] == 51630
    runs = {"dr17": (first, models), "one": (first, models[:1]), "dr16": (~first, models[:1])}
    for name, (rows, which) in runs.items():
        pipeline.plan(made / name, targets=targets[rows].head(8), source=mirror, models=which)
        pipeline.run(made / name, serial=True, progress=False)
    return made


@pytest.fixture
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.long
@pytest.mark.parametrize("page", BEFORE)
def test_python_of_a_page_runs(page: str, there: Path, mirror: Path, catalog: Path, threads: Client) -> None:
    own = {"docs/howto/full_survey.md": "planned", "docs/outliers.md": "one"}.get(page, "dr17")
    code = "\n".join([BEFORE[page], *PYTHON[page]])
    instead_of = {"s3://bucket/dr17": own, "s3://bucket/": "", '"galaxies"': '"dr17"'}
    for shown, instead in {**instead_of, **({} if page == "README.md" else ELSEWHERE)}.items():
        code = code.replace(shown, instead)
    exec(compile(code, page, "exec"), {"MIRROR": str(mirror), "CATALOG": str(catalog), "client": threads})
