"""The figure of a spectrum and the summary of a run, on real spectra."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.text import Text

from pipeline.cli.main import main
from pipeline.errors import ConfigError
from pipeline.results import plot as report
from pipeline.results import spectrum as spectra
from pipeline.results.coverage import runs_of
from pipeline.results.figures.attention import read_attention
from pipeline.results.run import Run, open_run
from pipeline.spectra.quality import Quality
from tests.running import random_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, mirror: Path, catalog: Path) -> Run:
    """Give six real galaxies, the last of them without a file, encoded with all variables."""
    folder = tmp_path_factory.mktemp("report")
    targets, source, root = (str(folder / name) for name in ("targets.parquet", "mirror", "run"))
    plate = "sdss/spectro/redux/26/spectra/lite/0266"
    (folder / "mirror" / plate).mkdir(parents=True)
    for file in sorted((mirror / plate).glob("spec-0266-51630-*.fits"))[:-1]:
        (folder / "mirror" / plate / file.name).symlink_to(file)
    assert main(["targets", str(catalog), "--where", "PLATE == 266 and MJD == 51630", "--output", targets]) == 0
    model = ["--model", f"random={random_checkpoint(folder)}", "--variables"]
    variables = "latents,restframe,reconstruction,chi2,n_pixels,amplitude"
    assert main(["plan", root, "--targets", targets, "--source", source, *model, variables]) == 0
    assert main(["run", root, "--serial"]) == 0
    return open_run(root)


def texts(figure: report.Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


def test_plot_is_a_png_for_a_slide(run: Run, tmp_path: Path) -> None:
    output = tmp_path / "new" / "galaxy.png"
    report.plot_spectrum(run, 0, str(output))
    height, width, _ = matplotlib.image.imread(output).shape
    assert width == pytest.approx(2000, abs=1)
    assert height == 1125


def test_a_notebook_shows_it_without_pyplot(run: Run) -> None:
    assert run.plot("266-51630-174")._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


def test_plot_names_object_redshift_and_quality(run: Run) -> None:
    row = run.find("266-51630-174")
    shown = " ".join(texts(report.draw(spectra.read_spectrum(run, row))))
    for word in ("GALAXY 26/266-51630-174", "z = 0.0216", "S/N = 41.4", "fiber masked", r"H$\alpha$", "Mg b"):
        assert word in shown


def test_a_format_that_cannot_be_written_is_refused_by_name(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="png"):
        report.plot_spectrum(run, 0, str(tmp_path / "galaxy.docx"))
    assert not list(tmp_path.iterdir())


def test_flux_is_shown_in_physical_units(run: Run, mirror: Path) -> None:
    from pipeline.surveys.sdss.files import read_spec

    spectrum = spectra.read_spectrum(run, 0)
    file = next((mirror / "sdss").glob("**/0266/spec-0266-51630-0168.fits"))
    raw = read_spec(file.read_bytes())
    valid = np.isfinite(spectrum.sigma)
    flux = np.interp(np.log10(spectrum.wavelength), raw.axis.astype(float), raw.flux)
    assert spectrum.target == "26/266-51630-168"
    np.testing.assert_allclose(spectrum.flux[valid], flux[valid], rtol=1e-2, atol=1e-2)
    sigma = np.interp(np.log10(spectrum.wavelength), raw.axis.astype(float), raw.ivar**-0.5)
    np.testing.assert_allclose(spectrum.sigma[valid], sigma[valid], rtol=2e-2)


def test_reconstruction_made_from_the_restframe_is_the_stored_one(run: Run) -> None:
    stored = spectra.read_spectrum(run, 1)
    encoding = run.encodings().isel(spectrum=1)
    made = spectra._reconstruction(
        encoding.drop_vars("reconstruction"), stored.wavelength, stored.z, stored.wave_rest, stored.restframe
    )
    both = np.isfinite(made) & np.isfinite(stored.reconstruction)
    assert both.sum() > 3500
    np.testing.assert_allclose(made[both] * float(encoding["norm"]), stored.reconstruction[both], rtol=1e-4)


def test_residuals_give_the_chi2_of_the_store(run: Run) -> None:
    encoding = run.encodings().isel(spectrum=2)
    residual = spectra.read_spectrum(run, 2).residual
    assert np.isfinite(residual).sum() == int(encoding["n_pixels"])
    assert np.nansum(residual**2) == pytest.approx(float(encoding["chi2"]), rel=1e-3)


def test_masked_pixels_are_shaded_in_both_observed_panels(run: Run) -> None:
    spectrum = spectra.read_spectrum(run, 0)
    masked = spectrum.observed & ~np.isfinite(spectrum.sigma)
    runs = list(zip(*runs_of(masked), strict=True))
    assert sum(last - first + 1 for first, last in runs) == masked.sum() > 100
    observed, residual, _ = report.draw(spectrum).axes
    for axes in (observed, residual):
        assert len(axes.patches) == len(runs)


def test_a_spectrum_without_a_file_says_so(run: Run, tmp_path: Path) -> None:
    row = run.plan.n_spectra - 1
    spectrum = spectra.read_spectrum(run, row)
    assert spectrum.quality & Quality.NO_FILE
    shown = texts(report.draw(spectrum))
    assert "no latents: no file" in shown
    assert "no restframe" in shown
    report.plot_spectrum(run, row, str(tmp_path / "none.png"))


def test_a_spectrum_without_a_redshift_says_so(run: Run) -> None:
    spectrum = spectra.read_spectrum(run, 0)
    nothing = np.full_like(spectrum.reconstruction, np.nan)
    blank = {"reconstruction": nothing, "wave_rest": np.empty(0), "restframe": np.empty(0)}
    shown = texts(report.draw(replace(spectrum, z=np.nan, quality=int(Quality.NO_REDSHIFT), **blank)))
    assert "no restframe: no redshift" in shown
    assert any(text.startswith("z unknown ") for text in shown)


def test_attention_adds_a_panel_on_the_observed_wavelengths(run: Run, tmp_path: Path) -> None:
    spectrum, attention = spectra.read_spectrum(run, 0), read_attention(run, 0)
    assert attention is not None
    observed, _, _, looks = report.draw(spectrum, attention).axes
    assert looks.get_xlim() == observed.get_xlim()
    filled, (change,) = looks.collections[0], [line for line in looks.lines if len(line.get_xdata()) == 3921]
    corners = filled.get_paths()[0].vertices
    mean = attention.weights.mean(axis=0) * len(attention.wavelength)
    assert corners[:, 1].max() == pytest.approx(mean.max())
    most = np.argmax((attention.sensitivity**2).sum(axis=0))
    assert np.argmax(change.get_ydata()) == most
    assert looks.get_xlabel() == r"observed wavelength  [$\mathrm{\AA}$, vacuum]"
    output = tmp_path / "attention.png"
    assert main(["plot", run.root, "--row", "0", "--attention", "--output", str(output)]) == 0
    height, width, _ = matplotlib.image.imread(output).shape
    assert (width, height) == (pytest.approx(2000, abs=1), pytest.approx(1365, abs=1))


def test_limits_of_a_spectrum_that_is_all_nan_are_finite(run: Run) -> None:
    spectrum = spectra.read_spectrum(run, 0, None)
    blank = replace(spectrum, flux=np.full_like(spectrum.flux, np.nan))
    assert np.isfinite(report._limits(blank)).all()


def test_a_run_that_kept_no_restframe_says_so(run: Run) -> None:
    spectrum = spectra.read_spectrum(run, 0)
    nothing = np.full_like(spectrum.reconstruction, np.nan)
    figure = report.draw(replace(spectrum, reconstruction=nothing, wave_rest=np.empty(0), restframe=np.empty(0)))
    assert "the run has no restframe spectra to reconstruct from" in texts(figure)


def test_names_of_lines_do_not_touch(run: Run) -> None:
    restframe = report.draw(spectra.read_spectrum(run, 0)).axes[2]
    names = {name for name, _ in report.EMISSION_LINES + report.ABSORPTION_LINES}
    boxes = [text.get_window_extent() for text in restframe.texts if text.get_text() in names]
    assert len(boxes) > 10
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:index])


def test_line_tables_are_vacuum_wavelengths_in_order() -> None:
    for table in (report.EMISSION_LINES, report.ABSORPTION_LINES):
        assert [line for _, line in table] == sorted(line for _, line in table)
    by_name = dict(report.EMISSION_LINES)
    # Balmer lines from the Rydberg constant of hydrogen, vacuum: 1 / (R_H (1/4 - 1/n^2))
    for name, level in ((r"H$\beta$", 4), (r"H$\gamma$", 5), (r"H$\delta$", 6)):
        balmer = 1e8 / (109677.58 * (1 / 4 - 1 / level**2))
        assert by_name[name][0] == pytest.approx(balmer, abs=0.15)


def test_summary_counts_spectra_latents_and_remarks(run: Run) -> None:
    n = run.plan.n_spectra
    table = report.summary_table(run, rows=[run.find("266-51630-174"), n - 1])
    lines = table.splitlines()
    assert lines[0] == f"spectra       {n}, {n - 1} with latents"
    assert "no_file 1" in table
    assert "fiber_masked" in table
    assert lines[-2].split()[:2] == ["26/266-51630-174", "GALAXY"]
    assert lines[-1].endswith("no file")
