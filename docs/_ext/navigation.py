"""Titles alone in the navigation of the site.

The navigation of each page lists all pages. The theme copies it with every heading and every entry of the API, then
shows the titles: most of the time that writing the pages takes. A page's own contents keep its headings.
"""

from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment.adapters.toctree import document_toc

_CONTENTS: dict[str, nodes.bullet_list] = {}
"""The whole contents of each page that the navigation shows by its title."""


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.connect("env-check-consistency", keep_titles)  # after the environment has been saved, before pages are written
    app.connect("html-page-context", add_contents, priority=400)  # before the theme reads the contents
    app.connect("html-page-context", remove_contents, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def keep_titles(app: Sphinx, env: Any) -> None:
    """Leave the titles of the pages without subpages in the environment."""
    for docname, contents in env.tocs.items():
        if not any(contents.findall(addnodes.toctree)):
            _CONTENTS[docname] = contents
            env.tocs[docname] = titles_of(contents)


def titles_of(contents: nodes.bullet_list) -> nodes.bullet_list:
    """Return the contents of a page without the headings below its title."""
    titles = [nodes.list_item("", item[0].deepcopy()) for item in contents if isinstance(item, nodes.list_item)]
    return nodes.bullet_list("", *titles)


def add_contents(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Give a page the contents with all its headings."""
    if pagename in _CONTENTS and "toc" in context:
        app.env.tocs[pagename] = _CONTENTS[pagename]
        context["toc"] = app.builder.render_partial(document_toc(app.env, pagename, app.tags))["fragment"]


def remove_contents(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Leave the title of a page in the environment, for the navigation of the next pages."""
    if pagename in _CONTENTS:
        app.env.tocs[pagename] = titles_of(_CONTENTS[pagename])
