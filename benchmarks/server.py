"""What the service costs: a request less an in-process prediction of the same bytes; its throughput beside offline's.

    python benchmarks/server.py [WEIGHTS|RUN] [--model resnet50] [--engine auto] [--clients 32] [--seconds 20]

Rounds alternate: in-process, then a request of one client; offline prediction of many pictures, then many clients. The
clients are a process of their own, whose share of the machine's processor time is told.
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

from reslab.data.formats.image_folder import IMAGENET_MEAN, IMAGENET_STD
from reslab.deploy.inputs import InputItem
from reslab.deploy.predict import InferenceTransform, Predictor, build_predictor, iter_predictions
from reslab.nn.checkpoints.safetensors_io import save_weights
from reslab.nn.factory import create_model
from reslab.nn.network import ResidualNetwork
from reslab.spec.preprocess import Preprocess
from reslab.training.run import load

_WARM_UP, _ROUNDS = 20, 200
_NUM_PICTURES = 16


def main() -> None:
    wishes = read_wishes()
    if wishes.load_port:
        pictures = [file.read_bytes() for file in sorted(wishes.weights.iterdir())]
        return print(json.dumps(generate_load(wishes.load_port, pictures, wishes.clients, wishes.seconds)))
    with tempfile.TemporaryDirectory() as folder:
        place = wishes.weights or random_weights(wishes.model, Path(folder))
        network = load(place)
        assert network.preprocess is not None
        pictures = some_pictures(network)
        answering = build_predictor(network, wishes.engine)
        with service(place, wishes.engine, wishes.clients) as port:
            found = {
                "network": network.arch.name,
                "input": list(network.arch.input_size),
                "engine": str(answering.backend),
                "cores": os.cpu_count(),
                "load_average": round(os.getloadavg()[0], 2),
                **one_client(network, answering, pictures, port),
                **many_clients(network, answering, pictures, port, wishes),
            }
    print(json.dumps(found, indent=2))
    return None


def read_wishes() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="?", type=Path)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--load-port", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def random_weights(name: str, folder: Path) -> Path:
    """The network with fresh weights and ImageNet's preprocessing, as a file."""
    network = create_model(name)
    network.preprocess = Preprocess(3, "resize(256) center-crop(224)", IMAGENET_MEAN, IMAGENET_STD)
    save_weights(folder / "model.safetensors", network)
    return folder / "model.safetensors"


def some_pictures(network: ResidualNetwork) -> list[bytes]:
    """JPEG files somewhat larger than what the network reads, smooth as photographs are."""
    assert network.preprocess is not None
    height, width = (max(32, side * 5 // 4) for side in network.arch.image_size)
    draw, found = np.random.default_rng(0), []
    for _ in range(_NUM_PICTURES):
        small = Image.fromarray(draw.integers(0, 256, (12, 16, 3), np.uint8))
        stream = io.BytesIO()
        small.resize((width * 4 // 3, height), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        found.append(stream.getvalue())
    return found


@contextmanager
def service(place: Path, engine: str, clients: int) -> Iterator[int]:
    """`reslab serve` in a process of its own; its port."""
    words = [sys.executable, "-m", "reslab", "serve", str(place), "--port", "0", "--engine", engine]
    process = subprocess.Popen([*words, "--queue", str(4 * clients)], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                yield int(found.group(1))
                return
        raise SystemExit("the service did not start")
    finally:
        process.terminate()
        process.wait()


def ask(connection: http.client.HTTPConnection, picture: bytes) -> int:
    connection.request("POST", "/v1/predict", picture, {"Content-Type": "image/jpeg"})
    answer = connection.getresponse()
    answer.read()
    return answer.status


def one_client(
    network: ResidualNetwork, answering: Predictor, pictures: Sequence[bytes], port: int
) -> dict[str, float]:
    """Medians in milliseconds, a request and the same bytes in-process taken in turn."""
    assert network.preprocess is not None
    prepare = InferenceTransform(network.preprocess, network.arch.image_size)
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def inside(picture: bytes) -> None:
        prepared = prepare(InputItem("picture", content=picture))
        assert not isinstance(prepared, str), prepared
        answering.top_classes(answering([prepared]), 5)

    def request(picture: bytes) -> None:
        assert ask(connection, picture) == 200

    times: dict[str, list[float]] = {"inside": [], "request": []}
    for number in range(_WARM_UP + _ROUNDS):
        for name, take in (("inside", inside), ("request", request)):
            taken = timed(take, pictures[number % len(pictures)])
            if number >= _WARM_UP:
                times[name].append(1000 * taken)
    medians = {name: statistics.median(each) for name, each in times.items()}
    return {
        "in_process_ms_p50": round(medians["inside"], 3),
        "request_ms_p50": round(medians["request"], 3),
        "overhead_ms_p50": round(medians["request"] - medians["inside"], 3),
    }


def timed(take: Callable[[bytes], None], picture: bytes) -> float:
    begun = time.perf_counter()
    take(picture)
    return time.perf_counter() - begun


def many_clients(
    network: ResidualNetwork, answering: Predictor, pictures: Sequence[bytes], port: int, wishes: argparse.Namespace
) -> dict[str, object]:
    """Images/s offline and behind the service, in turn; the medians of the rounds."""
    offline, served, shares, codes = [], [], [], {}
    for _ in range(wishes.repeats):
        offline.append(offline_speed(network, answering, pictures, wishes.seconds))
        found = load_beside(pictures, port, wishes)
        served.append(found["images_per_second"])
        shares.append(found["share_of_machine"])
        codes = found["codes"]
    return {
        "clients": wishes.clients,
        "offline_images_per_second": round(statistics.median(offline), 2),
        "served_images_per_second": round(statistics.median(served), 2),
        "served_of_offline": round(statistics.median(served) / statistics.median(offline), 3),
        "load_generator_share_of_machine": round(statistics.median(shares), 3),
        "codes": codes,
    }


def load_beside(pictures: Sequence[bytes], port: int, wishes: argparse.Namespace) -> dict[str, Any]:
    """`generate_load` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        for number, picture in enumerate(pictures):
            (Path(folder) / f"{number:03}.jpg").write_bytes(picture)
        words = [sys.executable, __file__, folder, "--load-port", str(port), "--clients", str(wishes.clients)]
        words += ["--seconds", str(wishes.seconds)]
        return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def offline_speed(network: ResidualNetwork, answering: Predictor, pictures: Sequence[bytes], seconds: float) -> float:
    """Images/s of `predict`'s own pipeline, on as many copies of the pictures as fill the time."""
    end, count, begun = time.perf_counter() + seconds, 0, time.perf_counter()
    while time.perf_counter() < end:
        items = [InputItem(f"#{i}", content=pictures[i % len(pictures)]) for i in range(128)]
        count += sum(1 for _ in iter_predictions(network, answering, items, batch_size=32))
    return count / (time.perf_counter() - begun)


def generate_load(port: int, pictures: Sequence[bytes], clients: int, seconds: float) -> dict[str, object]:
    """So many clients, each asking again at once when it is answered; a share of 1 is all cores of the machine."""
    codes: dict[int, int] = {}
    lock = threading.Lock()
    end = time.monotonic() + seconds

    def one(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        while time.monotonic() < end:
            status = ask(connection, pictures[number % len(pictures)])
            with lock:
                codes[status] = codes.get(status, 0) + 1

    threads = [threading.Thread(target=one, args=(number,)) for number in range(clients)]
    begun, spent = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - begun
    share = (time.process_time() - spent) / (wall * (os.cpu_count() or 1))
    return {"images_per_second": codes.get(200, 0) / wall, "share_of_machine": share, "codes": codes}


if __name__ == "__main__":
    main()
