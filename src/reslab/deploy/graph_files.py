"""Files of graphs, written and read again: .onnx, .pt2, .xml with .bin."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reslab.deploy.backends import onnxruntime_backend as onnx_engine
from reslab.deploy.backends import openvino_backend as openvino_engine
from reslab.deploy.backends.backend import Answer, Wish
from reslab.deploy.export.graphs import FACTS, import_openvino, onnx_model, openvino_model, trace
from reslab.deploy.job import Job
from reslab.deploy.quantising import quantise
from reslab.nn.network import Network
from reslab.spec.config import to_dict


def graph_facts(network: Network) -> Mapping[str, Any]:
    """What a graph carries with it: arch, classes, preprocessing, temperature."""
    return {
        "arch": to_dict(network.arch),
        "classes": list(network.classes) if network.classes else None,
        "preprocess": to_dict(network.preprocess),
        "temperature": network.temperature,
    }


def write_onnx(job: Job, path: Path) -> None:
    """The ONNX graph; of int8 the quantised one."""
    import onnx

    model = onnx_model(job.network, graph_facts(job.network))
    if job.precision == "int8":
        assert job.images is not None
        model = quantise(model, job.images, job.network)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def open_onnx(job: Job, path: Path) -> Answer:
    """The file in ONNX Runtime."""
    return onnx_engine.run_graph(path, Wish(job.precision, num_threads=job.num_threads))


def write_torch(job: Job, path: Path) -> None:
    """The program of torch.export, with what belongs to it in the extra file `reslab.json`."""
    extra = {f"{FACTS}.json": json.dumps(graph_facts(job.network))}
    torch.export.save(trace(job.network), path, extra_files=extra)


def open_torch(job: Job, path: Path) -> Answer:
    """The file as torch.export loads it."""
    run = torch.export.load(path).module()

    def answer(x: Tensor) -> Tensor:
        with torch.no_grad():
            return run(x)

    return answer


def write_openvino(job: Job, path: Path) -> None:
    """The .xml, and beside it the .bin with the weights: in float32, or for bf16 in 16 bits."""
    model = openvino_model(job.network, graph_facts(job.network))
    import_openvino().save_model(model, str(path), compress_to_fp16=job.precision == "bf16")


def open_openvino(job: Job, path: Path) -> Answer:
    """The file in OpenVINO, computing in the precision of the export."""
    return openvino_engine.run_model(path, Wish(job.precision, num_threads=job.num_threads))
