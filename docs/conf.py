"""Sphinx settings of the documentation; `make docs` builds it."""

import os
import sys
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT / "src"), str(DOCS / "_ext")]
# The kernels that run the chapters import this checkout, with one thread each, and fetch nothing.
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import editions  # noqa: E402

import reslab  # noqa: E402

project = "reslab"
author = "the reslab contributors"
copyright = "the reslab contributors, MIT license"
version = release = reslab.__version__
language = "en"

extensions = [
    "myst_nb",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "site_pages",
    "editions",
    "navigation",
]
exclude_patterns = ["README.md", "course/README.md", "_*", "images/*.py", "**.ipynb_checkpoints"]
source_suffix = {".md": "myst-nb", ".rst": "restructuredtext"}
root_doc = "index"

# Text
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "amsmath", "attrs_inline", "attrs_block"]
myst_heading_anchors = 4
myst_dmath_double_inline = True
nitpicky = True
# Names of other projects, whose inventories are not here; private names have no page.
nitpick_ignore_regex = [(r"py:.*", r"(?!reslab\b).*"), (r"py:.*", r".*\b_\w+")]

# Notebooks
nb_execution_mode = "cache"
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"

# API
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # a name in the place of a table of hundreds of networks, which takes minutes to parse
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_use_type_comments = False
autodoc_default_options = {"members": True}
autodoc_inherit_docstrings = False
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"

# HTML
html_theme = "furo"
html_title = "reslab"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/mark.svg"
html_logo = None
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0072b2", "color-brand-content": "#0067a1"},
    "dark_css_variables": {"color-brand-primary": "#62b6e8", "color-brand-content": "#7cc3ee"},
    "top_of_page_buttons": [],
}
mathjax_path = "mathjax/tex-svg.js"
mathjax_options = {"defer": "defer"}
smartquotes = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True

# Other languages: catalogs in locale/LANGUAGE/LC_MESSAGES. `-t zh_CN` builds the edition of the pages that have one.
locale_dirs = ["locale"]
gettext_compact = False
for edition in editions.LANGUAGES:
    if tags.has(edition):  # noqa: F821 (Sphinx defines it)
        language = edition
        include_patterns = [f"{page}.md" for page in editions.translated_pages(DOCS, edition)]
        # MyST looks for anchors of other pages among the translated headings; the English build checks these links.
        suppress_warnings = ["toc.excluded", "toc.not_readable", "myst.xref_missing"]
        nb_code_prompt_show, nb_code_prompt_hide = (
            editions.translate_prompt(prompt, edition) for prompt in (nb_code_prompt_show, nb_code_prompt_hide)
        )
