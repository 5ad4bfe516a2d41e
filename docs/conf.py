"""How the documentation's site is made from the pages beside this file: `make docs`."""

import tomllib
from pathlib import Path

project = "poolpilot"
release = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "version"
]
copyright = "the poolpilot authors, Apache-2.0"
extensions = ["myst_parser", "sphinx_copybutton"]
exclude_patterns = ["images/**"]

# Pages are plain Markdown that also reads well where nobody built a site: links go to files and to headings.
myst_heading_anchors = 4
highlight_language = "none"
smartquotes = False  # what stands in quotes is often meant to be typed

html_theme = "furo"
html_title = f"poolpilot {release}"
html_show_search_summary = False  # it would fetch the pages found, which a browser refuses where there is no server
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    # Two colours of the palette of the figures (dashboard/figures/palette.py), dark enough and light enough to read.
    "light_css_variables": {"color-brand-primary": "#005a8c", "color-brand-content": "#005a8c"},
    "dark_css_variables": {"color-brand-primary": "#56b4e9", "color-brand-content": "#56b4e9"},
}
copybutton_exclude = ".linenos, .gp, .go"
