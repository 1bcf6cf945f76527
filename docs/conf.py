"""The manual's settings.

python -m sphinx -W --keep-going -q docs build/docs            # the site, warnings are errors
python -m sphinx -W -q -b doctest docs build/doctest           # its examples
python -m sphinx -q -b linkcheck docs build/linkcheck          # links to other sites; not in CI
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

project = "compfast"
author = "the compfast authors"
copyright = "the compfast authors, Apache-2.0"
release = version = metadata.version("compfast")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.viewcode",  # every name of the API links to its source
    "from_code",  # docs/_ext: settings, presets and results, from where they stand
    "plain_docstrings",  # docs/_ext: docstrings are text with code in backticks
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_ext", "notebooks"]
default_role = "code"  # `name` in a docstring
nitpicky = False  # signatures name types of other packages, for which no inventory is fetched

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3  # links to headings, as GitHub has them

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # as written, not as reprs of whole sections
autodoc_class_signature = "mixed"
maximum_signature_line_length = 88
add_module_names = False

html_theme = "pydata_sphinx_theme"
html_title = "compfast"
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "navigation_depth": 2,
    "show_toc_level": 2,
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "footer_start": ["copyright"],
    "footer_end": [],
}

linkcheck_timeout = 20
linkcheck_workers = 4

# What examples may use: a folder of their own a page, and the usual names.
doctest_global_setup = """
import dataclasses, json, tempfile
from pathlib import Path
import polars as pl
import torch
import compfast
_temporary = tempfile.TemporaryDirectory()
folder = Path(_temporary.name)
"""
doctest_global_cleanup = "_temporary.cleanup()"
