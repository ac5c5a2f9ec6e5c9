"""Configuration of the documentation build."""

import re

import otkit

project = "otkit"
author = "The otkit developers"
copyright = "2026, The otkit developers"
version = release = otkit.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
default_role = "py:obj"

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say them
# Members are listed once: by autodoc, from the template of a class.
numpydoc_show_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"plot_",
    "ignore_pattern": r"export_digits|readme_picture",
    "capture_repr": (),
    "download_all_examples": False,
    "nested_sections": False,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
}

html_theme = "pydata_sphinx_theme"
html_title = "otkit"
html_static_path = ["_static"]
html_show_sourcelink = False
html_sidebars = {"**": ["groups"]}  # _templates/groups.html
html_theme_options = {
    "navbar_center": [],  # the groups of pages are in the sidebar
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
}


def trim(app, name, text):
    """Drop the empty line that ends an example: pytest needs it in the page, readers do not."""
    text[0] = re.sub(r"\n\n```$", "\n```", text[0], flags=re.MULTILINE)


def setup(app):
    """Register the hook above."""
    app.connect("source-read", trim)
