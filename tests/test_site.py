"""The generated tables of the documentation list every registered name, and its helpers make what the site needs."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from docutils import nodes
from sphinx import addnodes
from sphinx.util.parallel import make_chunks

from reslab.analysis.registry import ANALYSES
from reslab.cli.commands import COMMANDS
from reslab.data.named import DATASETS
from reslab.data.registry import FORMATS
from reslab.deploy.backends.registry import BACKENDS
from reslab.deploy.export.formats import EXPORT_FORMATS
from reslab.nn.checkpoints.foreign_formats import CONTAINERS
from reslab.nn.checkpoints.key_schemes import KEY_SCHEMES
from reslab.spec.loss import LOSSES
from reslab.spec.optim import OPTIMIZERS, SCHEDULES
from reslab.spec.papers import STUDIES
from reslab.spec.recipes import RECIPES
from reslab.spec.study import METRICS
from reslab.spec.task import TASKS
from reslab.spec.zoo import ARCHS

DOCS = Path(__file__).parent.parent / "docs"
sys.path.insert(0, str(DOCS / "_ext"))
import docstrings  # noqa: E402
import editions  # noqa: E402
import navigation  # noqa: E402
import reference_tables  # noqa: E402
import site_pages  # noqa: E402

REGISTERED = {
    "models": ARCHS,
    "recipes": RECIPES,
    "losses": [*LOSSES, *SCHEDULES, *OPTIMIZERS],
    "datasets": DATASETS,
    "data-formats": FORMATS,
    "study-metrics": METRICS,
    "tasks": TASKS,
    "backends": BACKENDS,
    "export-formats": EXPORT_FORMATS,
    "checkpoint-formats": [container.name for container in CONTAINERS],
    "key-schemes": [scheme.name for scheme in KEY_SCHEMES],
    "analyses": ANALYSES,
    "studies": STUDIES,
    "cli": [f"reslab {name}" for name in COMMANDS],
}


@pytest.mark.parametrize("name", REGISTERED)
def test_a_generated_table_lists_every_registered_name(name: str) -> None:
    text = reference_tables.GENERATED[name]()
    cells = {cell.strip(" `") for line in text.splitlines() for cell in line.split("|")}
    headings = {line.lstrip("# ") for line in text.splitlines() if line.startswith("## ")}
    assert [entry for entry in REGISTERED[name] if entry not in cells | headings] == []


def test_every_generated_table_has_a_page_and_every_marker_a_table() -> None:
    pages = "\n".join(path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md"))
    assert sorted(reference_tables.MARKER.findall(pages)) == sorted(reference_tables.GENERATED)


def test_the_table_of_a_command_has_its_options_with_defaults() -> None:
    text = reference_tables.cli()
    assert r"| `-b`, `--batch-size INTEGER\|auto`" in text
    assert "| `--device NAME`" in text
    assert "reslab train --data cifar10 --model resnet56_cifar --lr 0.2 --seeds 5" in text


def test_a_recipe_is_listed_with_all_its_values() -> None:
    from reslab.cli.lists import flatten_recipe

    text = reference_tables.recipes()
    section = text[text.index("## he2015-cifar") :].split("\n## ")[1]
    assert all(f"| `{key}`" in section for key in flatten_recipe(RECIPES["he2015-cifar"]))


def test_the_errors_that_a_program_may_catch_are_listed() -> None:
    text = reference_tables.errors()
    assert all(name in text for name in ("CheckpointError", "ImageError", "DiskFullError", "NonFiniteError"))
    assert "ErrorKind" not in text


def test_text_of_the_code_is_no_markup() -> None:
    assert reference_tables.escape("a*b_c `d_e` $x$") == "a&#42;b&#95;c `d_e` &#36;x&#36;"
    assert reference_tables.link_arxiv("He 2015, arXiv:1512.03385") == (
        "He 2015, [arXiv:1512.03385](https://arxiv.org/abs/1512.03385)"
    )


def test_a_docstring_in_plain_text_becomes_text_code_bullets_and_terms() -> None:
    lines = ["Return x * y_1 of `a_b`s.", "", "* one", "  goes on", "* two", "", "Sizes:", "    the |x| of all"]
    assert docstrings.to_rst(lines) == [
        r"Return x \* y\_1 of ``a_b``\ s.", "", "",
        "* one goes on", "", "* two", "", "",
        "Sizes:", r"    the \|x\| of all", "", "",
    ]  # fmt: skip


def test_the_api_has_a_page_for_each_package_but_the_command_line() -> None:
    assert {"reslab.nn", "reslab.nn.checkpoints", "reslab.training.optim"} <= set(docstrings.packages())
    assert "reslab.cli" not in docstrings.packages()
    assert ".. automodule:: reslab.nn.merge" in docstrings.package_page("reslab.nn")


def test_only_names_of_values_may_lack_an_entry_in_the_api() -> None:
    assert docstrings.names_a_value("reslab.nn.merge.MergeBuilderT")
    assert not docstrings.names_a_value("reslab.nn.merge.Merge")
    assert not docstrings.names_a_value("reslab.nn.merge.NoSuchName")
    assert not docstrings.names_a_value("reslab.no_such_module.Name")


def test_links_lead_from_a_page_to_the_same_files_or_to_their_pages() -> None:
    root = DOCS.parent
    page = DOCS / "project" / "readme.md"
    text = "[a](docs/how-to/serve.md#b) ![i](docs/images/report.png) [c](CHANGELOG.md) [d](https://e.org) [f](#g)"
    expected = "[a](../how-to/serve.md#b) ![i](../images/report.png) [c](changelog.md) [d](https://e.org) [f](#g)"
    assert site_pages.move_links(text, root / "README.md", page, DOCS) == expected
    page = DOCS / "how-to" / "serve.md"
    moved = site_pages.move_links("[a](../../benchmarks/README.md#x) [b](own-network.md)", page, page, DOCS)
    assert moved == "[a](../project/benchmarks.md#x) [b](own-network.md)"


def test_boxes_become_markdown_that_jupyter_shows() -> None:
    result = ":::{dropdown} Answer to exercise 1\n$4$.\n:::"
    exercise = ":::{admonition} Exercise 2\n:class: exercise\n\nCount.\n:::"
    details = "<details><summary>Answer to exercise 1</summary>\n\n$4$.\n\n</details>"
    text = f"before\n\n{result}\n\n{exercise}"
    assert site_pages.plain_markdown(text) == f"before\n\n{details}\n\n> **Exercise 2**\n>\n> Count."
    assert site_pages.plain_markdown(":::{note}\nText\n:::") == "> **Note**\n>\n> Text"


@pytest.mark.parametrize("language", editions.LANGUAGES)
def test_every_translated_page_exists_and_its_texts_are_in_the_page(language: str) -> None:
    pages = editions.translated_pages(DOCS, language)
    assert "index" in pages
    for page in pages:
        text = " ".join((DOCS / f"{page}.md").read_text(encoding="utf-8").split())
        catalog = (DOCS / "locale" / language / "LC_MESSAGES" / f"{page}.po").read_text(encoding="utf-8")
        messages = re.findall(r'^msgid "(.+)"$', catalog, re.M)
        assert messages
        assert [message for message in messages if re.sub(r'\\(["\\])', r"\1", message) not in text] == []


def test_the_prompts_of_folded_cells_are_translated() -> None:
    page = ['mystnb:\n  code_prompt_show: "Answer to exercise 3"\n  code_prompt_hide: "Of no known kind"\n']
    app = SimpleNamespace(config=SimpleNamespace(language="zh_CN"))
    editions.translate_prompts(app, "course/00-start", page)  # type: ignore[arg-type]
    assert page == ['mystnb:\n  code_prompt_show: "习题 3 的答案"\n  code_prompt_hide: "Of no known kind"\n']


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_every_process_that_reads_pages_runs_its_share_of_the_chapters(processes: int) -> None:
    chapters = [f"course/{number:02}-name" for number in range(11)]
    pages = [*chapters, "course/index", *(f"how-to/page{number}" for number in range(100))]
    dealt = list(pages)
    site_pages.spread_chapters(SimpleNamespace(parallel=processes), None, dealt)
    assert sorted(dealt) == sorted(pages)
    chunks = make_chunks(dealt, processes)
    shares = [sum(page in chapters for page in chunk) for chunk in chunks]
    assert max(shares[:processes]) - min(shares[:processes]) <= 1
    assert sum(shares[processes:]) == 0


def test_pages_without_chapters_and_few_pages_are_all_read() -> None:
    for pages in ([], ["a", "b"], ["course/00-a", "course/01-b", "course/02-c"]):
        dealt = list(pages)
        site_pages.spread_chapters(SimpleNamespace(parallel=2), None, dealt)
        assert sorted(dealt) == pages


def test_the_navigation_shows_the_titles_of_pages_without_their_headings() -> None:
    heading = nodes.list_item("", nodes.paragraph("", "Heading"))
    contents = nodes.bullet_list("", nodes.list_item("", nodes.paragraph("", "Title"), nodes.bullet_list("", heading)))
    index = nodes.bullet_list("", nodes.list_item("", nodes.paragraph("", "Index"), addnodes.toctree()))
    env = SimpleNamespace(tocs={"page": contents, "index": index})
    navigation.keep_titles(None, env)
    assert env.tocs["page"].astext() == "Title"
    assert env.tocs["index"] is index
    assert contents.astext().split() == ["Title", "Heading"]
