from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.catalog import targets
from pipeline.errors import ConfigError
from pipeline.surveys.sdss.keys import ids_of
from pipeline.surveys.sdss.survey import SDSS

# release, layout, target, sdss_tree's name of the file, its keywords
CASES = [
    ("dr9", "spec-lite", "v5_4_45/3586-55181-1", "spec-lite"),
    ("dr12", "spec-lite", "v5_7_0/4000-55500-12", "spec-lite"),
    ("dr13", "spec-lite", "v5_9_0/4000-55500-12", "spec-lite"),
    ("dr16", "spec-lite", "v5_13_0/10467-58138-1000", "spec-lite"),
    ("dr17", "spec-lite", "26/266-51602-1", "spec-lite"),
    ("dr17", "spec-lite", "103/1960-53289-320", "spec-lite"),
    ("dr17", "spec-lite", "104/2865-54497-640", "spec-lite"),
    ("dr17", "spec-lite", "v5_13_2/10467-58138-1000", "spec-lite"),
    ("dr17", "spec", "26/266-51602-1", "spec"),
    ("dr17", "spec", "v5_13_2/10467-58138-1000", "spec"),
    ("dr9", "spPlate", "v5_4_45/3586-55181-1", "spPlate"),
    ("dr17", "spPlate", "26/266-51602-1", "spPlate"),
    ("dr17", "spPlate", "v5_13_2/10467-58138-7", "spPlate"),
    ("dr18", "spec-lite", "v6_0_4/15000-59146-4375924486", "specLite"),
    ("dr18", "spec", "v6_0_4/15000-59146-4375924486", "specFull"),
    ("dr18", "spec-lite", "v6_0_4/101077-59146-4375924486", "specLite"),
    ("dr19", "spec-lite", "v6_0_6/15000-59146-27021597780", "specLite"),
    ("dr19", "spec", "v6_0_6/15000-59146-27021597780", "specFull"),
    ("dr19", "spec-lite", "v6_1_3/15000-59146-27021597780", "specLite"),
    ("dr19", "spec", "v6_1_3/101077-60000-63050394784953920", "specFull"),
    ("dr20", "spec-lite", "v6_2_1/15000-59146-27021597780", "specLite"),
    ("dr20", "spec", "v6_2_1/101077-60000-63050394784953920", "specFull"),
]


# reductions of each release; those of SDSS-I/II and its own newest ones
RELEASES = {
    **{f"dr{n}": ("26", "103", "104", "v5_4_45") for n in (9, 10)},
    "dr11": ("26", "104", "v5_6_5"),
    "dr12": ("26", "104", "v5_7_0", "v5_7_2"),
    **{f"dr{n}": ("26", "104", version) for n, version in ((13, "v5_9_0"), (14, "v5_10_0"), (15, "v5_10_0"))},
    "dr16": ("26", "103", "104", "v5_13_0"),
    "dr17": ("26", "103", "104", "v5_13_2"),
    "dr18": ("v6_0_4",),
    "dr19": ("v6_0_6", "v6_1_3"),
    "dr20": ("v6_2_1",),
}


def drawn() -> list[tuple[str, str, str, str]]:
    """Draw twenty spectra of every release, with numbers of all lengths that there are."""
    rng, cases = random.Random(20261127), []
    for release, reductions in RELEASES.items():
        for i in range(20):
            run2d, mjd = reductions[i % len(reductions)], rng.randint(51600, 61000)
            if run2d.startswith("v6"):
                field, number = rng.choice((rng.randint(15000, 32767), rng.randint(100000, 130000))), rng.randint(9, 16)
                kind, template = rng.choice((("spec-lite", "specLite"), ("spec", "specFull")))
                cases.append(
                    (release, kind, f"{run2d}/{field}-{mjd}-{rng.randint(10**number, 9 * 10**number)}", template)
                )
                continue
            plate = rng.choice((rng.randint(266, 999), rng.randint(1000, 9999), rng.randint(10000, 12547)))
            kind = rng.choice(("spec-lite", "spPlate"))
            cases.append((release, kind, f"{run2d}/{plate}-{mjd}-{rng.randint(1, 1000)}", kind))
    return cases


def keywords(target: str, template: str) -> dict[str, str | int]:
    ids = ids_of(target)
    if template.startswith(("specLite", "specFull")):
        return {"run2d": ids.run2d, "fieldid": ids.plate, "mjd": ids.mjd, "catalogid": ids.fiber_or_catalogid}
    return {"run2d": ids.run2d, "plateid": ids.plate, "mjd": ids.mjd, "fiberid": ids.fiber_or_catalogid}


# Setting a release, sdss_access changes the environment of its whole process: it has one of its own.
ASK = """
import json, sys
from sdss_access.path import Path
cases = json.load(sys.stdin)
print("\\n" + json.dumps([Path(release=r).url(t, base_dir="/base/", **k) for r, t, k in cases]))
"""


@pytest.mark.slow
def test_every_path_is_that_of_sdss_access():
    all_cases = CASES + drawn()
    cases = [(release, template, keywords(target, template)) for release, _, target, template in all_cases]
    answer = subprocess.run(
        [sys.executable, "-c", ASK], input=json.dumps(cases), capture_output=True, text=True, check=True
    )
    urls = json.loads(answer.stdout.splitlines()[-1])
    ours = [SDSS.paths(layout, [target])[0] for _, layout, target, _ in all_cases]
    theirs = [url.split(f"/sas/{release}/")[1] for url, (release, *_) in zip(urls, all_cases, strict=True)]
    assert ours == theirs


@pytest.mark.parametrize(
    ("layout", "target", "others"),
    [
        ("spec-lite", "26/266-51602-1", ["spectra/lite/0266/spec-0266-51602-0001.fits.gz"]),
        (
            "spec",
            "v5_7_0/4455-55945-12",
            [
                "spectra/4455/spec-4455-55945-0012.fits",
                "spectra/full/4455/spec-4455-55945-0012.fits.gz",
                "spectra/4455/spec-4455-55945-0012.fits.gz",
            ],
        ),
    ],
)
def test_mirrors_may_keep_files_elsewhere(layout: str, target: str, others: list[str]):
    (path,) = SDSS.paths(layout, [target])
    found = [place(path) for place in SDSS.layouts[layout].places]
    assert found == [f"{path.split('spectra/')[0]}{other}" for other in others]


def test_every_real_file_lies_where_its_target_says(mirror: Path, catalog: Path):
    paths = SDSS.paths("spec-lite", targets.read_targets(str(catalog))["target"])
    assert len(paths) == len(set(paths))
    assert sorted(paths) == sorted(str(path.relative_to(mirror)) for path in mirror.glob("*/**/spec-*.fits"))


def test_targets_of_one_plate_share_its_file():
    keys = ["26/266-51602-1", "26/266-51602-640", "26/266-51630-1", "26/267-51608-1"]
    assert len(set(SDSS.paths("spPlate", keys))) == 3


def test_plates_of_sdss_v_are_refused_with_what_to_do_instead():
    with pytest.raises(ConfigError, match="SDSS-V has no spPlate files.*; choose spec-lite"):
        SDSS.paths("spPlate", ["v6_0_4/15000-59146-4375924486"])
