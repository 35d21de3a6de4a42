"""Which column is the redshift, by names and medians."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from pipeline.catalog.targets import find_targets
from pipeline.errors import ConfigError
from tests.catalogs import csv, table

MAGNITUDES = {"u": [19.1, 18.2, 17.3], "g": [18.0, 17.0, 16.0], "r": [17.5, 16.5, 15.5], "i": [17.2, 16.2, 15.2]}
LOW, HIGH = [0.1, 0.2, 0.4], [16.9, 15.9, 14.9]


def found(folder: Path, given: str | None = None, **columns: object) -> tuple[list[float], tuple[str, ...]]:
    selection = find_targets(csv(folder, **{"Z": None, **columns}), columns={"z": given} if given else None)
    frame = selection.frame.set_index("target")
    rows = ["26/266-51602-9", "26/266-51602-1", "v5_13_2/10467-58138-636"]
    return [float(frame.loc[row, "z"]) for row in rows], selection.said


def near(values: list[float]) -> object:
    return pytest.approx(values, rel=1e-6)


@pytest.mark.parametrize("name", ["z", "Z"])
def test_the_only_z_of_a_table_without_magnitudes_is_the_redshift(tmp_path: Path, name: str) -> None:
    assert found(tmp_path, **{name: LOW, "redshift": [1, 2, 3]}) == (
        near(LOW),
        (f"z from column {name}, not redshift",),
    )


@pytest.mark.parametrize("name", ["redshift", "ZSPEC", "z_spec", "Z_best", "zsp"])
def test_beside_magnitudes_the_redshift_has_another_name(tmp_path: Path, name: str) -> None:
    assert found(tmp_path, **MAGNITUDES, z=HIGH, **{name: LOW}) == (near(LOW), (f"z from column {name}, not z",))


def test_one_magnitude_is_enough_to_prefer_it(tmp_path: Path) -> None:
    assert found(tmp_path, r=HIGH, z=HIGH, redshift=LOW)[0] == near(LOW)


def test_names_for_redshifts_have_an_order(tmp_path: Path) -> None:
    values, said = found(tmp_path, **MAGNITUDES, z=HIGH, z_best=HIGH, zspec=LOW, z_spec=HIGH)
    assert (values, said) == (near(LOW), ("z from column zspec, not z, z_spec, z_best",))


@pytest.mark.parametrize("names", [("z", "z_2"), ("z_1", "z_2"), ("z_x", "z_y"), ("z", "z.1"), ("z", "Z")])
@pytest.mark.parametrize("is_first", [False, True])
def test_of_two_z_the_redshift_is_known_by_its_median(tmp_path: Path, names: tuple[str, str], is_first: bool) -> None:
    low, high = names if is_first else names[::-1]
    columns = {name: LOW if name == low else HIGH for name in names}
    assert found(tmp_path, **MAGNITUDES, **columns) == (near(LOW), (f"z from column {low}, not {high}",))


def test_two_columns_of_one_name_are_two_in_fits_and_csv_alike(tmp_path: Path) -> None:
    rows = table(Z=None)
    text = [*rows, "z", "z"]
    lines = [",".join(text), *(f"{','.join(str(rows[name][i]) for name in rows)},{HIGH[i]},{LOW[i]}" for i in range(3))]
    (tmp_path / "two.csv").write_text("\n".join(lines))
    columns = [fits.Column(name, "8A" if name == "RUN2D" else "J", array=np.array(rows[name])) for name in rows]
    columns += [fits.Column("z", "E", array=np.array(HIGH)), fits.Column("other", "E", array=np.array(LOW))]
    hdu = fits.BinTableHDU.from_columns(columns)
    hdu.writeto(tmp_path / "two.fits")
    data = (tmp_path / "two.fits").read_bytes().replace(b"'other   '", b"'z       '")
    (tmp_path / "two.fits").write_bytes(data)
    for name in ("two.csv", "two.fits"):
        selection = find_targets(str(tmp_path / name))
        assert selection.said == ("z from column z_2, not z",), name
        assert sorted(selection.frame["z"]) == near(LOW)
        with pytest.raises(ConfigError, match="its median is 15.9"):
            find_targets(str(tmp_path / name), columns={"z": "z"})
        assert len(find_targets(str(tmp_path / name), "z_2 < 0.3").frame) == 2


def test_a_quasar_has_a_redshift_above_the_others(tmp_path: Path) -> None:
    assert found(tmp_path, **MAGNITUDES, z=HIGH, z_2=[2.1, 2.2, 3.3])[0] == near([2.1, 2.2, 3.3])


def test_the_same_column_twice_is_one(tmp_path: Path) -> None:
    assert found(tmp_path, z_1=LOW, z_2=LOW) == (near(LOW), ("z from column z_1, not z_2",))


def test_of_two_that_may_both_be_it_the_second_is_taken_and_this_is_said(tmp_path: Path) -> None:
    values, said = found(tmp_path, z_1=LOW, z_2=[0.3, 0.3, 0.3])
    assert (values, said) == (near([0.3, 0.3, 0.3]), ("z from column z_2, not z_1",))
    assert found(tmp_path, given="z_1", z_1=LOW, z_2=[0.3, 0.3, 0.3])[0] == near(LOW)
    message = (
        r"several columns may be the redshift of .*: z_1 \(median 2.2\), z_2 \(median 3\); name .* --column z=NAME"
    )
    with pytest.raises(ConfigError, match=message):
        found(tmp_path, z_1=[2.1, 2.2, 3.3], z_2=[3, 3, 3])


def test_two_magnitudes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no column holds redshifts"):
        found(tmp_path, z_1=HIGH, z_2=[20, 20, 20])


def test_z_beside_magnitudes_is_taken_if_its_median_says_so(tmp_path: Path) -> None:
    values, said = found(tmp_path, **MAGNITUDES, z=LOW)
    assert (values, said) == (near(LOW), ("z from column z, beside columns g, i, r, u: its median is 0.2",))
    with pytest.raises(ConfigError, match="its median is 15.9, a magnitude as g, i, r, u; name .* --column z=NAME"):
        found(tmp_path, **MAGNITUDES, z=HIGH)


@pytest.mark.parametrize("name", ["Z", "redshift"])
def test_whatever_has_a_median_above_seven_is_no_redshift(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"column {name} of .* holds no redshifts: its median is 15.9"):
        found(tmp_path, **{name: HIGH})


@pytest.mark.parametrize("missing", [-1, -9999, None, "null"])
def test_missing_redshifts_have_no_part_in_the_median(tmp_path: Path, missing: object) -> None:
    values, _ = found(tmp_path, **MAGNITUDES, z=HIGH, z_2=[missing, missing, 0.4])
    assert values[2] == pytest.approx(0.4)


def test_a_table_without_any_redshift_known_keeps_its_z(tmp_path: Path) -> None:
    selection = find_targets(csv(tmp_path, Z=[None, None, None]))
    assert selection.frame["z"].isna().all()
    assert selection.remarks == {"without a usable redshift; some models need it": 3}
