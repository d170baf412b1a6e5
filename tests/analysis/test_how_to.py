"""The examples and the imports of docs/how-to/analyze-a-network.md run as they are printed."""

import re
from pathlib import Path

import pytest

from reslab.analysis.registry import ANALYSES

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "analyze-a-network.md").read_text(encoding="utf-8")
EXAMPLES = [each for each in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "disabled_blocks" not in each]
IMPORTS = re.findall(r"^\| `(from reslab\.analysis\.[^`]+)`", PAGE, re.MULTILINE)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs_as_it_stands(example: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(example, "analyze-a-network.md", "exec"), {})
    assert re.search(r"healthy|layer1\.0|torch\.Size", capsys.readouterr().out)


def test_every_analysis_has_its_line_of_import() -> None:
    names: dict[str, object] = {}
    for line in IMPORTS:
        exec(line, names)
    functions = {analysis.run or analysis.run_jointly for analysis in ANALYSES.values()}
    assert functions <= {each for each in names.values() if callable(each)}


def test_every_option_of_the_commands_exists() -> None:
    for line in re.findall(r"^    reslab analyze (\S+ .*)", PAGE, re.MULTILINE):
        name = line.split()[0]
        keys = re.findall(r"--set (\w+)=", line)
        assert set(keys) <= set(vars(ANALYSES[name].options)), line
