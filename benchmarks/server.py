"""The server's overhead: a request minus an in-process prediction of the same bytes; its throughput and offline's.

    python benchmarks/server.py [WEIGHTS|RUN] [--model resnet50] [--backend auto] [--clients 32] [--seconds 20]

Rounds alternate: in-process, then a request of one client; offline prediction of many images, then many clients. The
clients run in their own process, and the output includes their fraction of the machine's processor time.
"""

import argparse
import http.client
import io
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from side_by_side import add_json_option, report
from tables import Column

from reslab.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from reslab.deploy.inputs import InferenceTransform, InputItem
from reslab.deploy.predict import PredictOptions, iter_predictions
from reslab.deploy.prediction import ResultLimits
from reslab.deploy.predictor import Predictor, build_predictor
from reslab.nn.checkpoints.safetensors_io import save_weights
from reslab.nn.factory import create_model
from reslab.nn.network import ResidualNetwork
from reslab.spec.preprocess import Preprocess
from reslab.training.checkpoint import load_run_network

_WARM_UP, _ROUNDS = 20, 200
_NUM_IMAGES = 16
COLUMNS = {
    "network": ("", ""),
    "in_process_ms_p50": ("in-process, ms", ".1f"),
    "request_ms_p50": ("request, ms", ".1f"),
    "offline_images_per_second": ("offline, images/s", ".1f"),
    "served_images_per_second": ("many clients, images/s", ".1f"),
    "served_over_offline": ("many clients against offline", ".1%"),
    "clients_processor_fraction": ("the clients' fraction of the processor time", ".1%"),
}


def main() -> None:
    args = parse_args()
    if args.load_port:
        images = [file.read_bytes() for file in sorted(args.weights.iterdir())]
        return print(json.dumps(generate_load(args.load_port, images, args.clients, args.seconds)))
    with tempfile.TemporaryDirectory() as folder:
        weights_path = args.weights or random_weights(args.model, Path(folder))
        network = load_run_network(weights_path)
        assert network.preprocess is not None
        images = make_images(network)
        predictor = build_predictor(network, args.backend)
        with run_server(weights_path, args.backend, args.clients) as port:
            results = {
                "network": network.arch.name,
                "input": list(network.arch.input_size),
                "backend": str(predictor.backend),
                "cores": os.cpu_count(),
                "load_average": round(os.getloadavg()[0], 2),
                **one_client(network, predictor, images, port),
                **many_clients(network, predictor, images, port, args),
            }
    print(json.dumps(results, indent=2))
    columns = [Column(key, heading, spec) for key, (heading, spec) in COLUMNS.items()]
    title = f"{results['network']}, {results['backend']}, {args.clients} clients, {args.repeats} rounds"
    return report(args.json, title, columns, [results], transposed=True)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="?", type=Path)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--load-port", type=int, default=0, help=argparse.SUPPRESS)
    add_json_option(parser)
    return parser.parse_args()


def random_weights(name: str, folder: Path) -> Path:
    """Save the network with random weights and ImageNet's preprocessing to a file and return its path."""
    network = create_model(name)
    network.preprocess = Preprocess(3, "resize(256) center-crop(224)", IMAGENET_MEAN, IMAGENET_STD)
    save_weights(folder / "model.safetensors", network)
    return folder / "model.safetensors"


def make_images(network: ResidualNetwork) -> list[bytes]:
    """Return JPEG files somewhat larger than the network's input, smooth as photographs are."""
    assert network.preprocess is not None
    height, width = (max(32, side * 5 // 4) for side in network.arch.image_size)
    rng, files = np.random.default_rng(0), []
    for _ in range(_NUM_IMAGES):
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        stream = io.BytesIO()
        small.resize((width * 4 // 3, height), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        files.append(stream.getvalue())
    return files


@contextmanager
def run_server(weights_path: Path, backend: str, clients: int) -> Iterator[int]:
    """Run `reslab serve` in its own process and yield its port."""
    command = [sys.executable, "-m", "reslab", "serve", str(weights_path), "--port", "0", "--backend", backend]
    process = subprocess.Popen([*command, "--max-in-flight", str(4 * clients)], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if match := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                yield int(match.group(1))
                return
        raise SystemExit("the server did not start")
    finally:
        process.terminate()
        process.wait()


def send_request(connection: http.client.HTTPConnection, image: bytes) -> int:
    connection.request("POST", "/v1/predict", image, {"Content-Type": "image/jpeg"})
    response = connection.getresponse()
    response.read()
    return response.status


def one_client(network: ResidualNetwork, predictor: Predictor, images: Sequence[bytes], port: int) -> dict[str, float]:
    """Return medians in milliseconds, alternating a request and an in-process prediction of the same bytes."""
    assert network.preprocess is not None
    transform = InferenceTransform(network.preprocess, network.arch.image_size)
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def predict_in_process(image: bytes) -> None:
        prepared = transform(InputItem("image", content=image))
        assert prepared.pixels is not None, prepared.error
        predictor.result(*predictor.compute([prepared]), ResultLimits(top_k=5))

    def request(image: bytes) -> None:
        assert send_request(connection, image) == 200

    times: dict[str, list[float]] = {"in_process": [], "request": []}
    for number in range(_WARM_UP + _ROUNDS):
        for name, predict in (("in_process", predict_in_process), ("request", request)):
            seconds = measure_seconds(predict, images[number % len(images)])
            if number >= _WARM_UP:
                times[name].append(1000 * seconds)
    medians = {name: statistics.median(each) for name, each in times.items()}
    return {
        "in_process_ms_p50": round(medians["in_process"], 3),
        "request_ms_p50": round(medians["request"], 3),
        "overhead_ms_p50": round(medians["request"] - medians["in_process"], 3),
    }


def measure_seconds(predict: Callable[[bytes], None], image: bytes) -> float:
    """Return the seconds that one prediction takes."""
    start = time.perf_counter()
    predict(image)
    return time.perf_counter() - start


def many_clients(
    network: ResidualNetwork, predictor: Predictor, images: Sequence[bytes], port: int, args: argparse.Namespace
) -> dict[str, object]:
    """Alternate offline prediction and the server under load, and return the median images/s of each."""
    offline, served, fractions, status_codes = [], [], [], {}
    for _ in range(args.repeats):
        offline.append(offline_speed(network, predictor, images, args.seconds))
        load = load_in_subprocess(images, port, args)
        served.append(load["images_per_second"])
        fractions.append(load["processor_fraction"])
        status_codes = load["status_codes"]
    return {
        "clients": args.clients,
        "offline_images_per_second": round(statistics.median(offline), 2),
        "served_images_per_second": round(statistics.median(served), 2),
        "served_over_offline": round(statistics.median(served) / statistics.median(offline), 3),
        "clients_processor_fraction": round(statistics.median(fractions), 3),
        "status_codes": status_codes,
    }


def load_in_subprocess(images: Sequence[bytes], port: int, args: argparse.Namespace) -> dict[str, Any]:
    """Run `generate_load` in its own process."""
    with tempfile.TemporaryDirectory() as folder:
        for number, image in enumerate(images):
            (Path(folder) / f"{number:03}.jpg").write_bytes(image)
        command = [sys.executable, __file__, folder, "--load-port", str(port), "--clients", str(args.clients)]
        command += ["--seconds", str(args.seconds)]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def offline_speed(network: ResidualNetwork, predictor: Predictor, images: Sequence[bytes], seconds: float) -> float:
    """Return the images/s of `predict`'s own pipeline, on as many copies of the images as fill the time."""
    end, count, start = time.perf_counter() + seconds, 0, time.perf_counter()
    while time.perf_counter() < end:
        items = [InputItem(f"#{i}", content=images[i % len(images)]) for i in range(128)]
        count += sum(1 for _ in iter_predictions(network, predictor, items, PredictOptions(batch_size=32)))
    return count / (time.perf_counter() - start)


def generate_load(port: int, images: Sequence[bytes], clients: int, seconds: float) -> dict[str, object]:
    """Run clients that each send the next request when they get a response. A processor fraction of 1 is all cores."""
    status_codes: dict[int, int] = {}
    lock = threading.Lock()
    end = time.monotonic() + seconds

    def run_client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        while time.monotonic() < end:
            status = send_request(connection, images[number % len(images)])
            with lock:
                status_codes[status] = status_codes.get(status, 0) + 1

    threads = [threading.Thread(target=run_client, args=(number,)) for number in range(clients)]
    start, processor_start = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - start
    fraction = (time.process_time() - processor_start) / (wall * (os.cpu_count() or 1))
    return {
        "images_per_second": status_codes.get(200, 0) / wall,
        "processor_fraction": fraction,
        "status_codes": status_codes,
    }


if __name__ == "__main__":
    main()
