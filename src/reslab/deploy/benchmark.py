"""How fast this machine answers: every engine and precision on the same pictures, in alternating rounds."""

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from reslab.deploy.backends.backend import Engine
from reslab.deploy.backends.registry import ENGINES, PRECISIONS, Kind, open_engine
from reslab.deploy.extras import has_extra
from reslab.nn.network import ResidualNetwork
from reslab.runtime.device import quick_bf16
from reslab.runtime.memory import Memory
from reslab.spec.errors import invalid, unknown_name

WARM_UP_CALLS = 3
SECONDS_A_TURN = 1.0
_NUM_SCALES = 32


@dataclass(frozen=True)
class AnswerSpeed:
    """What answering costs: latencies of `num_calls` calls of one batch each, taken in alternating rounds.

    `images_per_second` is the median over the rounds of batch / the round's median latency, `images_per_second_range`
    the slowest and the quickest round; percentiles are over all calls.
    `memory_bytes` is the most that was in use above what was before the engine was made (None where the system does
    not tell), `prepare_seconds` what making it took.
    """

    engine: str
    precision: str
    batch: int
    images_per_second: float
    images_per_second_range: tuple[float, float]
    latency_ms_p50: float
    latency_ms_p95: float
    latency_ms_p99: float
    memory_bytes: int | None
    prepare_seconds: float
    num_calls: int


@dataclass
class _Contestant:
    engine: Engine
    x: Tensor
    memory_bytes: int | None
    prepare_seconds: float
    rounds: list[list[float]] = field(default_factory=list)

    def take_turn(self) -> None:
        """Calls for SECONDS_A_TURN, at least one; the seconds of each."""
        seconds: list[float] = []
        end = time.perf_counter() + SECONDS_A_TURN
        while not seconds or time.perf_counter() < end:
            begun = time.perf_counter()
            self.engine(self.x)
            seconds.append(time.perf_counter() - begun)
        self.rounds.append(seconds)

    def speed(self) -> AnswerSpeed:
        """What all rounds together say."""
        batch, every = len(self.x), sorted(second for each in self.rounds for second in each)
        by_round = [batch / statistics.median(each) for each in self.rounds]
        p50, p95, p99 = (1e3 * quantile(every, part) for part in (0.5, 0.95, 0.99))
        return AnswerSpeed(
            engine=self.engine.name + ", compiled" * self.engine.compiled,
            precision=self.engine.precision,
            batch=batch,
            images_per_second=statistics.median(by_round),
            images_per_second_range=(min(by_round), max(by_round)),
            latency_ms_p50=p50,
            latency_ms_p95=p95,
            latency_ms_p99=p99,
            memory_bytes=self.memory_bytes,
            prepare_seconds=self.prepare_seconds,
            num_calls=len(every),
        )


def quantile(ordered: Sequence[float], part: float) -> float:
    """The value that `part` of the ordered values do not exceed: the nearest rank."""
    assert ordered
    return ordered[min(len(ordered) - 1, max(0, -int(-part * len(ordered) // 1) - 1))]


def measure_engines(
    network: ResidualNetwork,
    input_size: tuple[int, int, int],
    batches: Sequence[int],
    engines: Sequence[str],
    precisions: Sequence[str],
    device: torch.device,
    rounds: int = 5,
    compiled: bool = False,
) -> list[AnswerSpeed]:
    """Every engine in every precision it has among `precisions`, with every batch of random images (C, H, W) =
    `input_size`, in rounds in which each has its turn; torch as it is and, where `compiled`, compiled too.

    Normalisation is not counted, fetching the answers is. Scales of int8 come from the same random images: the speed is
    that of real ones, the answers are not. Raises ValueError for a batch or rounds below 1, unknown engines and
    precisions, and where no engine has a precision asked for; ExtraMissing.
    """
    for name, value in (("batch", min(batches)), ("rounds", rounds)):
        if value < 1:
            raise invalid(f"{name} of at least 1", value, nearest="1")
    x = torch.randn(max(*batches, _NUM_SCALES), *input_size, generator=torch.Generator().manual_seed(0))
    taking: list[_Contestant] = []
    for engine, precision in pairs(engines, precisions, device):
        taking += _contestants(network, engine, precision, x, batches, device, False)
        if compiled and engine == "torch":
            taking += _contestants(network, engine, precision, x, batches, device, True)
    for _ in range(rounds):
        for each in taking:
            each.take_turn()
    return [each.speed() for each in taking]


def _contestants(
    network: ResidualNetwork,
    engine: str,
    precision: str,
    x: Tensor,
    batches: Iterable[int],
    device: torch.device,
    compiled: bool,
) -> list[_Contestant]:
    """One engine with each batch; its memory is taken while nothing else is new."""
    memory = Memory(device)
    begun = time.perf_counter()
    opened = open_engine(network, engine, precision, device, images=x[:_NUM_SCALES], compiled=compiled)
    seconds = time.perf_counter() - begun
    found = []
    for batch in batches:
        opened(x[:batch])
        memory.forget_peak()  # what making and compiling took is not what answering takes
        for _ in range(WARM_UP_CALLS):
            opened(x[:batch])
        found.append(_Contestant(opened, x[:batch].clone(), memory.used_bytes(), seconds))
    return found


def default_engines(device: torch.device) -> list[str]:
    """The engines that are installed and run on this kind of device."""
    return [kind.name for kind in ENGINES.values() if device.type in kind.devices and has_extra(kind.extra)]


def default_precisions(device: torch.device) -> list[str]:
    """Those that the device is quick at."""
    return ["float32", *(["bf16"] if quick_bf16(device) else []), *(["fp16"] if device.type == "cuda" else []), "int8"]


def pairs(engines: Sequence[str], precisions: Sequence[str], device: torch.device) -> list[tuple[str, str]]:
    """Each engine with each of the precisions that it has; ValueError where that is none."""
    for name in engines:
        if name not in ENGINES:
            raise unknown_name("engine", name, ENGINES)
    for name in precisions:
        if name not in PRECISIONS:
            raise unknown_name("precision", name, PRECISIONS)
    found = [(engine, each) for engine in engines for each in precisions if _can(ENGINES[engine], each)]
    if not found:
        step = "; ".join(f"{name}: {', '.join(ENGINES[name].precisions)}" for name in engines)
        raise invalid(f"a precision that {', '.join(engines)} has", ", ".join(precisions), next_step=step)
    return found


def _can(kind: Kind, precision: str) -> bool:
    return precision in kind.precisions and (precision != "int8" or has_extra("onnx"))
