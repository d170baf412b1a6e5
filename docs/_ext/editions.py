"""The edition in another language: the pages that have a catalog, with links to the English pages of the others."""

import os
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

LANGUAGES = {"zh_CN": ("zh", "中文")}
"""The languages beside English: the folder of the edition in the site, and its name in the language itself."""

PROMPTS = {
    "zh_CN": {
        r"Answer to exercise (\d+)": r"习题 \1 的答案",
        r"Hide the answer to exercise (\d+)": r"收起习题 \1 的答案",
        "Show the code": "显示代码",
        "Hide the code": "收起代码",
        "Imports and helpers": "导入与辅助函数",
        "Hide the imports": "收起导入",
        "Download as a notebook": "下载 notebook",
    }
}
"""Prompts of folded cells and texts of links, which no catalog has: patterns and their translations."""
_PROMPT = re.compile(r'^(  code_prompt_(?:show|hide): ")([^"\n]*)(")$', re.M)


def translate_prompt(prompt: str, language: str) -> str:
    """Return the prompt of a folded cell in a language; unchanged where it has no translation, and in English."""
    for pattern, translation in PROMPTS.get(language, {}).items():
        if re.fullmatch(pattern, prompt):
            return re.sub(pattern, translation, prompt)
    return prompt


def translate_prompts(app: Sphinx, docname: str, content: list[str]) -> None:
    """Translate the prompts of the folded cells of a page."""
    language = app.config.language
    if language in LANGUAGES:
        content[0] = _PROMPT.sub(lambda m: m[1] + translate_prompt(m[2], language) + m[3], content[0])


def translated_pages(docs: Path, language: str) -> list[str]:
    """Return the pages that have a catalog of a language."""
    folder = docs / "locale" / language / "LC_MESSAGES"
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.po"))


class LinksToEnglish(SphinxPostTransform):
    """Makes links to pages that the edition lacks links to the English pages; runs before MyST resolves links."""

    default_priority = 5

    def run(self, **kwargs: Any) -> None:
        """Replace the references of one page."""
        if self.config.language not in LANGUAGES:
            return
        for node in list(self.document.findall(addnodes.pending_xref)):
            target = str(node["reftarget"]).lstrip("/")
            if node.get("refdoc") and node.get("reftype") == "doc" and not str(node["reftarget"]).startswith("/"):
                target = os.path.normpath(os.path.join(os.path.dirname(node["refdoc"]), target))
            is_page = node.get("refdomain") == "doc" or node.get("reftype") == "doc"
            if is_page and target not in self.env.all_docs:
                depth = self.env.docname.count("/") + 1
                anchor = node.get("reftargetid")
                uri = f"{'../' * depth}{target}.html{f'#{anchor}' if anchor else ''}"
                link = nodes.reference("", "", *node.children, refuri=uri, internal=False, classes=["english"])
                node.replace_self(link)


def language_link(app: Sphinx, pagename: str) -> str:
    """Return the link from a page to its other language as HTML; empty where it has one language."""
    up = "../" * pagename.count("/")
    if app.config.language in LANGUAGES:
        return f'<p class="language"><a href="../{up}{pagename}.html" lang="en">English</a></p>'
    links = [
        f'<a href="{up}{folder}/{pagename}.html" lang="{language.replace("_", "-")}">{name}</a>'
        for language, (folder, name) in LANGUAGES.items()
        if pagename in translated_pages(Path(app.srcdir), language)
    ]
    return f'<p class="language">{" ".join(links)}</p>' if links else ""


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.add_post_transform(LinksToEnglish)
    app.connect("html-page-context", add_language_link)
    app.connect("source-read", translate_prompts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def add_language_link(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Put the link to the other language ahead of the page's text."""
    if "body" in context and doctree is not None:
        context["body"] = language_link(app, pagename) + context["body"]
