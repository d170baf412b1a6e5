"""The examples and the imports of docs/how-to/ask-a-network.md are as the code has them."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "ask-a-network.md").read_text(encoding="utf-8")
EXAMPLES = [each for each in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "switched_off" not in each]
IMPORTS = re.findall(r"^\| `(from reslab\.analysis\.[^`]+)`", PAGE, re.MULTILINE)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs_as_it_stands(example: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(example, "ask-a-network.md", "exec"), {})
    assert re.search(r"healthy|layer1\.0", capsys.readouterr().out)


def test_every_question_has_its_line_of_import() -> None:
    from reslab.analysis.registry import ANALYSES

    names: dict[str, object] = {}
    for line in IMPORTS:
        exec(line, names)
    functions = {question.run or question.run_jointly for question in ANALYSES.values()}
    assert functions <= {each for each in names.values() if callable(each)}
