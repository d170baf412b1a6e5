"""The long description of the package: README.md without its links into the repository, which a package lacks."""

import re
from pathlib import Path

from setuptools import setup

_IMAGE = re.compile(r"^!\[[^\]]*\]\((?!https?:)[^)]*\)\n+", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|#)[^)]*\)")


def long_description(readme: str) -> str:
    """Return the text without images of the repository, and with the text of a link in place of a relative link."""
    return _LINK.sub(r"\1", _IMAGE.sub("", readme))


if __name__ == "__main__":
    page = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    setup(long_description=long_description(page), long_description_content_type="text/markdown")
