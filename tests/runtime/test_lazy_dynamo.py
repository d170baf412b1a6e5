"""Trainings and costs import torch._dynamo only if something is compiled, and torch.compile is not affected."""

import subprocess
import sys
from pathlib import Path

import torch
import torch._dynamo as dynamo

from reslab.runtime.lazy_dynamo import lazy_dynamo

TRAINING_SCRIPT = """
import inspect, sys
import torch
from reslab.nn.cost import layer_table
from reslab.nn.factory import create_model
from reslab.runtime.lazy_dynamo import lazy_dynamo
from reslab.training.train import train

def is_marked():
    return hasattr(torch.optim.Optimizer.add_param_group.__wrapped__, "__dynamo_disable")

run = train(None, "digits", epochs=1, num_images=64, output=folder, on_log=lambda record: None)
assert run.result is not None
assert len(layer_table(create_model("resnet20_cifar"), (3, 32, 32))) > 50
assert "torch._dynamo" not in sys.modules and "_dynamo" not in vars(torch)
assert not is_marked()

class Scale(torch.nn.Module):
    def forward(self, x):
        return 2 * x

with lazy_dynamo():
    optimizer = torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=0.1)
    stand_in = sys.modules["torch._dynamo"]
    assert torch._dynamo is stand_in and is_marked()
    inspect.stack()
    assert not hasattr(stand_in, "__file__") and "torch._dynamo.eval_frame" not in sys.modules
    seen = []
    def backend(graph, inputs):
        seen.append(graph)
        return graph
    x = torch.ones(2)
    compiled = torch.compile(Scale(), backend=backend)
    assert torch.equal(compiled(x), 2 * x) and len(seen) == 1
    assert sys.modules["torch._dynamo"] is torch._dynamo is not stand_in
    assert not is_marked()
    optimizer.zero_grad()
    assert stand_in.config is torch._dynamo.config
    function = seen.append
    assert stand_in.disable(function) is not function
    stand_in.graph_break()
    optimizer.step()
assert sys.modules["torch._dynamo"] is torch._dynamo is not stand_in
assert "torch._dynamo.eval_frame" in sys.modules
import torch._dynamo.utils
"""

# What one submodule imports first, a user's settings and errors of another must reach.
SUBMODULE_SCRIPT = """
import importlib.util, sys
import torch
from reslab.runtime.lazy_dynamo import lazy_dynamo

with lazy_dynamo():
    stand_in = sys.modules["torch._dynamo"]
    assert importlib.util.find_spec("torch._dynamo").origin.endswith("__init__.py")
    assert importlib.util.find_spec("torch._dynamo.config") is not None
    assert importlib.util.find_spec("torch._dynamo.nosuch") is None
    assert sys.modules["torch._dynamo"] is stand_in and "torch._dynamo.config" not in sys.modules
    import torch._dynamo.config
    from torch._dynamo.utils import counters
    import torch._dynamo.backends.registry as registry
from torch._dynamo import convert_frame
assert torch._dynamo.config is convert_frame.config
assert type(torch._dynamo.config.__spec__.loader).__module__ != "reslab.runtime.lazy_dynamo"
assert counters is convert_frame.counters
assert registry is torch._dynamo.backends.registry
names = [name for name in sys.modules if name.startswith("torch._dynamo.")]
assert all(sys.modules[name].__name__ == name for name in names) and len(names) > 50
assert not any(type(finder).__name__ == "_SubmoduleFinder" for finder in sys.meta_path)
"""

DISABLE_SCRIPT = """
import torch
from reslab.runtime.lazy_dynamo import lazy_dynamo

with lazy_dynamo():
    @torch.compiler.disable
    def untraced(x):
        return x.sin()

    @torch.compiler.disable
    class Untraced(torch.nn.Module):
        def forward(self, x):
            return x.sin()

graphs = []
def backend(graph, inputs):
    graphs.append(graph.code)
    return graph
for function in (untraced, Untraced()):
    torch.compile(lambda x: function(x + 1) * 2, backend=backend)(torch.ones(2))
assert graphs and not any("sin" in code for code in graphs)
"""


# Each in a fork of a process that has imported torch, but not torch._dynamo.
FORKS = """
import os, sys, traceback
import torch
folder, scripts = sys.argv[1], sys.argv[2:]
for script in scripts:
    child = os.fork()
    if child == 0:
        try:
            exec(compile(script, "script", "exec"), {"__name__": "__main__", "folder": folder})
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(script)
"""


def test_only_what_needs_it_imports_it(tmp_path: Path) -> None:
    scripts = [TRAINING_SCRIPT, SUBMODULE_SCRIPT, DISABLE_SCRIPT]
    command = [sys.executable, "-c", FORKS, str(tmp_path / "run"), *scripts]
    outcome = subprocess.run(command, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr


def test_nothing_is_exchanged_where_it_is_imported() -> None:
    with lazy_dynamo():
        assert sys.modules["torch._dynamo"] is dynamo is torch._dynamo
    assert sys.modules["torch._dynamo"] is dynamo
