"""A network that is served: its name, where it lies, and, once its weights are there, what answers for it."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from reslab.deploy.answering import Answering, class_names, open_answering
from reslab.deploy.export.verify import run_images
from reslab.deploy.preparation import Preparation
from reslab.deploy.server.batching import Line
from reslab.deploy.server.errors import refused
from reslab.deploy.server.settings import ServiceSettings
from reslab.deploy.service.specimen import Specimen
from reslab.nn.checkpoints.safetensors_io import load_weights, read_header
from reslab.nn.network import Network
from reslab.spec.arch import Arch
from reslab.spec.config import from_dict
from reslab.spec.errors import refuse
from reslab.training.run import Run


@dataclass(frozen=True, eq=False)
class Opened:
    """What answers for a network: `line` its predictions, as probabilities (classes,) of a prepared picture; `study`
    one thread for looking into `specimen`, a copy of it."""

    network: Network
    classes: tuple[str, ...]
    answering: Answering
    prepare: Preparation
    line: Line[Tensor, Tensor]
    specimen: Specimen
    study: ThreadPoolExecutor

    def close(self) -> None:
        """Finish what was begun."""
        self.line.close()
        self.study.shutdown(wait=True)


class Served:
    """One network by `name`; of a run in training the weights come later, and are opened when first asked for."""

    def __init__(self, name: str, place: Path, settings: ServiceSettings, told: Callable[[int], None]) -> None:
        self.name, self.place, self.settings, self.told = name, place, settings, told
        self.run = Run(place) if place.is_dir() else None
        self.weights_path = place if self.run is None else self.run.weights_path
        self.arch = self._arch()
        self._lock = threading.Lock()
        self._opened: Opened | None = None

    def _arch(self) -> Arch:
        """The network as data, from the run or from the header of its weights. ValueError for a foreign module."""
        if self.run is None:
            found = read_header(self.weights_path)["arch"]
            arch = None if found is None else from_dict(Arch, found)
        else:
            arch = self.run.arch
        if arch is None:
            raise refuse("a reslab network", f"{self.name}, a module of its own", next_step="serve another run")
        return arch

    @property
    def finished(self) -> bool:
        """Whether there are weights."""
        return self.weights_path.is_file()

    @property
    def known(self) -> Opened | None:
        """What answers, where it was opened before."""
        return self._opened

    def opened(self) -> Opened:
        """What answers. Raises Refused (503) while a run has no weights yet."""
        with self._lock:
            if self._opened is None:
                if not self.finished:
                    raise refused(503, "a run that has ended", f"{self.name}, still in training", "ask again later")
                self._opened = self._open()
            return self._opened

    def _open(self) -> Opened:
        network = load_weights(self.weights_path)
        settings = self.settings
        images = run_images(self.place, network) if settings.precision == "int8" else None
        answering = open_answering(network, settings.engine, settings.precision, settings.device, images=images)
        assert network.preprocess is not None  # open_answering refuses a network without

        def compute(pictures: Sequence[Tensor]) -> Sequence[Tensor]:
            return list(answering.probabilities(answering(pictures)))

        return Opened(
            network=network,
            classes=class_names(network),
            answering=answering,
            prepare=Preparation(network.preprocess, network.arch.image_size),
            line=Line(compute, settings.max_batch, self.told, self.name),
            specimen=Specimen(network, settings.device),
            study=ThreadPoolExecutor(1, thread_name_prefix=f"study of {self.name}"),
        )

    def close(self) -> None:
        """Finish what was begun."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None


def names_of(places: Sequence[Path]) -> list[str]:
    """A name for each: the folder's, or the file's, `-2` after a name that is taken. ValueError where there is none."""
    if not places:
        raise refuse("at least one run", "none", next_step="`reslab runs` lists them")
    found: list[str] = []
    for place in places:
        path = place.resolve()
        name = path.name if path.is_dir() else path.parent.name if path.name == "model.safetensors" else path.stem
        taken = (name if count == 1 else f"{name}-{count}" for count in range(1, len(places) + 1))
        found.append(next(free for free in taken if free not in found))
    return found
