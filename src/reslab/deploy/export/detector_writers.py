"""The writers and loaders of detectors: ONNX graphs, and reslab's own weights."""

from pathlib import Path

import torch

from reslab.deploy.backends.backend import DetectFn
from reslab.deploy.export.detector_graphs import detector_to_onnx, file_name
from reslab.deploy.export.writers import WEIGHTS_FILE, ExportJob, graph_metadata
from reslab.nn.dense import DenseNetwork
from reslab.nn.factory import load_model
from reslab.spec.detection import DetectionArch


def write_onnx(job: ExportJob, path: Path) -> None:
    """Write the graphs of a detector beside each other; the first at `path`."""
    import onnx

    assert isinstance(job.network, DenseNetwork)
    for name, model in detector_to_onnx(job.network, graph_metadata(job.network)).items():
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path.with_name(file_name(path.name, name)))


def load_onnx(job: ExportJob, path: Path) -> DetectFn:
    """Load the graphs in ONNX Runtime."""
    from reslab.deploy.backends.onnx_detector import open_onnx_detector

    assert isinstance(job.network.arch, DetectionArch)
    return open_onnx_detector(path, job.network.arch, job.num_threads)


def load_safetensors(job: ExportJob, path: Path) -> DetectFn:
    """Load the weights with reslab."""
    network = load_model(path / WEIGHTS_FILE)
    assert isinstance(network, DenseNetwork)
    return torch_detect(network)


def torch_detect(network: DenseNetwork) -> DetectFn:
    """Return the function of a detector in eval mode."""
    network.eval()

    def detect(x: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        with torch.no_grad():
            found: list[dict[str, torch.Tensor]] = network(list(x))
            return found

    return detect
