"""Configuration of the documentation site: `make docs` builds it, without network, with warnings as errors."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent)]

from pipeline.version import __version__  # noqa: E402 - found by the path above

project = "spender-pipeline"
release = version = __version__
project_copyright = "the spender-pipeline developers"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_argparse_cli",
    "data_model",
    "plain_docstrings",
    "repository_pages",
]
exclude_patterns = ["_build", "executed"]
templates_path = ["_templates"]
highlight_language = "none"  # indented blocks are shell commands, trees or TOML; Python blocks say so

# Pages that live elsewhere in the repository: copied to docs/repository, with the files that they link to.
repository_root = str(DOCS.parent)
repository_pages = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/RESULTS.md",
    "deploy/*.md",
    "notebooks/*.ipynb",
    "spender_core/data/*.md",
]

executed_notebooks = "docs/executed"  # where `make test-long` leaves them

myst_heading_anchors = 3
nb_execution_mode = "off"  # the tests execute the notebooks

add_module_names = False
autodoc_type_aliases = {"Place": "Place"}
autodoc_member_order = "bysource"
autosummary_ignore_module_all = False
autosummary_imported_members = True  # the packages import what `__all__` lists
autosummary_context = {"documented_elsewhere": ["pipeline.WeightsError"]}  # it is spender_core's
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True

html_theme = "pydata_sphinx_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_sidebars = {
    page: []
    for page in ("index", "questions", "citing", "repository/README", "repository/CHANGELOG", "repository/CONTRIBUTING")
}
html_context = {"default_mode": "auto"}  # light or dark as the reader's system
html_theme_options = {
    "logo": {"text": project},
    "navbar_end": ["theme-switcher"],
    "header_links_before_dropdown": 6,
    "secondary_sidebar_items": {"**": ["page-toc"], "reference/data_model": []},  # room for its tables
    "show_toc_level": 2,
}
