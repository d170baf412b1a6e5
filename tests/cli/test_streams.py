"""Standard streams that are closed, gone or cannot print a name."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reslab.cli.app import main
from reslab.cli.output import echo_err, print_json, print_pairs, print_table, printable_streams
from reslab.cli.progress import ProgressDisplay
from tests.cli.conftest import Command

NAME = "caf\u00e9 \udce4 \u2713"


def stream(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252", "cp437"])
def test_a_name_that_the_terminal_lacks_is_escaped(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = stream(encoding)
    monkeypatch.setattr(sys, "stdout", out)
    with printable_streams():
        print_json({"name": NAME})
        out.flush()
        assert json.loads(out.buffer.getvalue().decode(encoding)) == {"name": NAME}  # type: ignore[attr-defined]
        print_table(["name"], [[NAME]])
        out.flush()
    assert "\\udce4" in out.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


def test_control_characters_in_names_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["image", "class"], [["new\nline\t\x1b[31mred.png", "\u202ecat"]])
    print_pairs([("image", "\x1b]0;title\x07")])
    echo_err("\x9b1A is no file\nof an image")
    found = capsys.readouterr()
    assert found.out.splitlines()[1:] == [
        "new\\nline\\t\\x1b[31mred.png  \\u202ecat", "image  \\x1b]0;title\\x07"
    ]  # fmt: skip
    assert found.err == "\\x9b1A is no file\nof an image\n"


def test_without_standard_output_a_command_works(monkeypatch: pytest.MonkeyPatch) -> None:
    for closed in (None, stream("utf-8")):
        if closed is not None:
            closed.close()
        monkeypatch.setattr(sys, "stdout", closed)
        monkeypatch.setattr(sys, "stderr", closed)
        assert main(["models", "resnet20*"]) == 0
        assert main(["models", "--json"]) == 0
        assert main(["no-such-command"]) == 2
        assert sys.stdout is closed


def shell(command: str) -> "subprocess.CompletedProcess[str]":
    source = str(Path(__file__).parents[2] / "src")
    environment = {**os.environ, "PYTHONPATH": source, "RESLAB": f"{sys.executable} -m reslab.cli.app"}
    script = command.replace("reslab", f"{sys.executable} -c 'from reslab.cli.app import entry; entry()'")
    return subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    "command", ["reslab models >&-", "reslab --help | head -1", "reslab models --json | head -1; exit ${PIPESTATUS[0]}"]
)
def test_a_closed_output_is_no_error(command: str) -> None:
    outcome = shell(command)
    assert (outcome.returncode, outcome.stderr) in [(0, ""), (141, "")]


class GoneStream(io.StringIO):
    """A terminal that has gone after some writes."""

    def __init__(self) -> None:
        super().__init__()
        self.num_writes = 0

    def write(self, text: str) -> int:
        self.num_writes += 1
        if self.num_writes > 3:
            raise BrokenPipeError(32, "Broken pipe")
        return super().write(text)


def test_a_progress_display_whose_stream_has_gone_stops_only_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from reslab.training.train import train

    gone = GoneStream()
    monkeypatch.setattr(sys, "stderr", gone)
    with ProgressDisplay() as display:
        run = train(output=tmp_path / "run", epochs=1, overrides={"model.depths": "1,1,1"}, on_log=display)
    assert run.main_metric is not None
    assert gone.num_writes <= 6


def test_runs_reports_a_broken_run_and_continues(command: Command, trained: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "run.json").write_text("{")
    for paths in ([broken, trained], [trained, tmp_path]):
        result = command("runs", *paths, "--json")
        assert (result.code, [row["name"] for row in result.value]) == (0, ["digits"])
        assert f"left out: required: a complete JSON object; got: {broken}" in result.err
    assert command("runs", broken).code == 1
