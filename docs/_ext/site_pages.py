"""The Sphinx extension of this site: generated pages and tables, and the notebooks to download."""

import hashlib
import os
import re
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import docstrings
import editions
import jupytext
import reference_tables
from sphinx.application import Sphinx
from sphinx.util.parallel import make_chunks

API_FOLDER = Path("reference") / "api"
# Files of the repository that are pages under another name; links on code hosts lead to the files.
PAGE_OF_FILE = {
    "README.md": "project/readme.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "LOG.md": "project/log.md",
    "benchmarks/README.md": "project/benchmarks.md",
    "docs/README.md": "index.md",
}
_TOCTREE_MARKER = re.compile(r"^<!-- toctree( hidden)? -->$", re.M)
_FILE_MARKER = re.compile(r"^<!-- file: (\S+) -->$", re.M)
_LINK = re.compile(r"\]\((?![a-z]+:|#|/)([^)#\s]+)(#[^)\s]*)?\)")
_CHAPTER = re.compile(r"course/(\d\d-[\w-]+)$")
_FENCE = re.compile(r"^(:{3,})\{(\w+)\}[ ]*([^\n]*)\n((?::[\w-]+:[^\n]*\n)*)(.*?)^\1[ ]*$", re.M | re.S)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.connect("config-inited", use_cache_of_the_source)
    app.connect("builder-inited", write_api_pages)
    app.connect("env-before-read-docs", spread_chapters)
    app.connect("source-read", expand_page)
    app.connect("autodoc-process-docstring", docstring_to_rst)
    app.connect("missing-reference", keep_names_of_values)
    app.connect("html-page-context", add_notebook_link)
    app.connect("build-finished", write_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def use_cache_of_the_source(app: Sphinx, config: Any) -> None:
    """Keep the outputs of the chapters in a cache that belongs to the source: a change runs them anew."""
    root = Path(app.srcdir).parent
    digest = hashlib.sha256()
    for path in sorted((root / "src").rglob("*.py")):
        digest.update(path.read_bytes())
    folder = root / "build" / "docs" / "cache"
    cache = folder / digest.hexdigest()[:16]
    for other in folder.glob("*"):
        if other != cache:
            shutil.rmtree(other, ignore_errors=True)
    cache.mkdir(parents=True, exist_ok=True)
    config.nb_execution_cache_path = str(cache)


def write_api_pages(app: Sphinx) -> None:
    """Write the pages of the API into the source folder, where Sphinx looks for pages; other editions have none."""
    if app.config.language != "en":
        return
    docstrings.write_pages(Path(app.srcdir) / API_FOLDER)


def spread_chapters(app: Sphinx, env: Any, docnames: list[str]) -> None:
    """Deal the chapters to the processes that read pages; in alphabetical order one process would run them all."""
    chapters = [name for name in docnames if _CHAPTER.match(name)]
    others = iter([name for name in docnames if not _CHAPTER.match(name)])
    chunk_sizes = [len(chunk) for chunk in make_chunks(docnames, app.parallel)]
    docnames.clear()
    for process, size in enumerate(chunk_sizes[: app.parallel]):
        share = chapters[process :: app.parallel]
        docnames += [*share, *islice(others, max(0, size - len(share)))]
    docnames += others


def expand_page(app: Sphinx, docname: str, content: list[str]) -> None:
    """Replace the markers of generated tables and files, and the links to files that are pages of another name."""
    docs = Path(app.srcdir)
    page = docs / f"{docname}.md"
    if page.exists():
        included = _FILE_MARKER.sub(lambda match: read_file(docs.parent / match[1], page, docs), content[0])
        included = _TOCTREE_MARKER.sub(lambda match: remaining_toctree(page, bool(match[1])), included)
        content[0] = reference_tables.expand(move_links(included, page, page, docs))


def remaining_toctree(page: Path, hidden: bool) -> str:
    """Return the contents list of the pages in the folder of an index that none of its other lists has."""
    listed = set(re.findall(r"^[\w-]+$", page.read_text(encoding="utf-8"), re.M)) | {page.stem, "README"}
    names = sorted(path.stem for path in page.parent.glob("*.md") if path.stem not in listed)
    options = [":hidden:"] if hidden else [":maxdepth: 1"]
    return "\n".join(["```{toctree}", *options, "", *names, "```"]) if names else ""


def read_file(path: Path, page: Path, docs: Path) -> str:
    """Return the text of a file of the repository for a page, with its links as seen from the page."""
    return move_links(path.read_text(encoding="utf-8"), path, page, docs)


def move_links(text: str, source: Path, page: Path, docs: Path) -> str:
    """Return Markdown of the file `source` as the text of `page`: relative links lead to the same file or its page."""

    def moved(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(source.parent / match[1]))
        name = os.path.relpath(target, docs.parent).replace(os.sep, "/")
        if source == page and name not in PAGE_OF_FILE:
            return match[0]
        target = docs / PAGE_OF_FILE[name] if name in PAGE_OF_FILE else target
        return f"]({os.path.relpath(target, page.parent).replace(os.sep, '/')}{match[2] or ''})"

    return _LINK.sub(moved, text)


def docstring_to_rst(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Make reStructuredText of a docstring in plain text."""
    lines[:] = docstrings.to_rst(lines)


def keep_names_of_values(app: Sphinx, env: Any, node: Any, contnode: Any) -> Any:
    """Show the names of type variables and aliases in signatures without a link; other missing names are reported."""
    return contnode if node.get("refdomain") == "py" and docstrings.names_a_value(node["reftarget"]) else None


# Notebooks to download


def add_notebook_link(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Put the link to the notebook below the heading of a chapter."""
    match = _CHAPTER.match(pagename)
    if match and "body" in context:
        text = editions.translate_prompt("Download as a notebook", app.config.language)
        link = f'<p class="notebook-link"><a href="{match[1]}.ipynb" download>{text}</a></p>'
        context["body"] = context["body"].replace("</h1>", f"</h1>\n{link}", 1)


def write_notebooks(app: Sphinx, exception: Exception | None) -> None:
    """Write each chapter as a notebook without outputs, beside its page."""
    if exception is not None or app.builder.name != "html":
        return
    for docname in app.env.found_docs:
        match = _CHAPTER.match(docname)
        if match:
            notebook = jupytext.read(Path(app.env.doc2path(docname)))
            for cell in notebook.cells:
                if cell.cell_type == "markdown":
                    cell.source = plain_markdown(cell.source)
            target = Path(app.outdir) / "course" / f"{match[1]}.ipynb"
            target.parent.mkdir(parents=True, exist_ok=True)
            jupytext.write(notebook, target, fmt="ipynb")


def plain_markdown(text: str) -> str:
    """Return MyST Markdown as Jupyter shows it: dropdowns as `<details>`, other boxes as quotes with a bold title."""
    return _FENCE.sub(_plain_box, text + "\n").rstrip("\n")


def _plain_box(match: re.Match[str]) -> str:
    _, kind, heading, options, body = match.groups()
    if kind == "dropdown" or "dropdown" in options:
        return f"<details><summary>{heading}</summary>\n\n{body.strip()}\n\n</details>"
    title = heading or kind.capitalize()
    return "\n".join(f"> {line}".rstrip() for line in [f"**{title}**", "", *body.strip().splitlines()])
