"""A unit taken apart: what the shortcut and what the branch bring to its output, and to its input's gradient."""

from dataclasses import dataclass

import torch
from torch import Tensor

from reslab.analysis.blocks import UnitRun, as_asked, unit_runs
from reslab.analysis.progress import tell
from reslab.analysis.room import check_room
from reslab.analysis.subject import Subject
from reslab.nn.block import Unit
from reslab.nn.network import Network
from reslab.nn.third_party import as_network
from reslab.spec.errors import refuse

_PROVED_ON = 8
# What of all layers' outputs stays without gradients: those of the units.
_HELD = 0.3


@dataclass(frozen=True, eq=False)
class Parts:
    """y = after(shortcut + branch), each (N, C, H, W) with factors and gates applied; `fork` is what both read.

    The shortcut of a plain twin is zeros.
    """

    fork: Tensor
    shortcut: Tensor
    branch: Tensor
    output: Tensor


def take_apart(unit: Unit, x: Tensor) -> Parts:
    """The parts of a unit's output for the input x: what meets is linear in both, so each is the sum without the other.

    For one mode of the unit: with dropped elements or branches drawn anew each time the parts would not add up.
    """
    fork = unit.before(x)
    branch = unit.branch(fork)
    shortcut = torch.zeros_like(branch)
    if unit.mix is not None and unit.downsample is not None:
        matched = unit.downsample(fork)
        branch, shortcut = unit.mix(fork, shortcut, branch), unit.mix(fork, matched, torch.zeros_like(branch))
    return Parts(fork, shortcut, branch, unit.after(shortcut + branch))


def through_shortcut(unit: Unit, x: Tensor, *gradients: Tensor) -> list[Tensor]:
    """Of gradients at the unit's output, what comes back to its input x by the shortcut alone.

    The branch and the openness of a gate are taken as constants: dL/dx = J_shortcut^T J_after^T dL/dy. Zeros in a plain
    twin.
    """
    if unit.mix is None or unit.downsample is None:
        return [torch.zeros_like(x) for _ in gradients]
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        fork = unit.before(x)
        branch = unit.branch(fork.detach()).detach()
        output = unit.after(unit.mix(fork.detach(), unit.downsample(fork), branch))
    return [torch.autograd.grad(output, x, gradient, retain_graph=True)[0] for gradient in gradients]


def keeps_identity(unit: Unit) -> bool:
    """Whether x + F(x) is all the unit does from its fork on: shortcut and the words after are identities, and they are
    added (He et al. 2016, Eq. 3)."""
    bare = not unit.after_names and unit.plan.match == "identity"
    return bare and unit.mix is not None and unit.mix.plain_sum


def stages_of(runs: list[UnitRun]) -> list[list[UnitRun]]:
    """The runs, in order, by the stage in which they stand: `layer1.0` and `layer1.1` are of one."""
    found: list[list[UnitRun]] = []
    for run in runs:
        stage = run.name.rpartition(".")[0]
        if not found or found[-1][-1].name.rpartition(".")[0] != stage:
            found.append([])
        found[-1].append(run)
    return found


def runs_of(network: Network, images: Tensor, statistics: str) -> list[UnitRun]:
    """The runs of the network's units on the images, without gradients."""
    check_room(network, images, share=_HELD)
    model = as_asked(network, statistics)
    with torch.no_grad(), unit_runs(model) as runs:
        model(images)
    return runs


def network_of(subject: Subject) -> Network:
    """The subject's network, whose units can be taken apart; a module of others read into the zoo's network that
    computes the same on the first pictures (see `reslab.nn.third_party.as_network`).

    Raises ValueError where there is none, and for a network without units.
    """
    network = as_network(subject.model, subject.images[:_PROVED_ON])
    if not network.arch.depths:
        raise refuse("a network of units", f"{subject.name}, which has none", nearest="book_res")
    if network is not subject.model:
        tell(f"{subject.name} computes what {network.arch.name} does, and is asked as it")
    return network
