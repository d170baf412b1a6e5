"""`reslab predict` of a folder, from files to predictions, against the slower of its two parts: decoding and network.

    python benchmarks/predict_folder.py FOLDER        a folder with JPEG files, such as hymenoptera_data

Three candidates take turns: all files decoded and prepared, by as many threads as `predict` uses; the network on
batches in memory; and both together (`predict`). Where each part alone uses all processors, both cannot be as fast as
the slower one: the bound is then 1 / (1 / decoding + 1 / network), which is printed beside it.
"""

import argparse
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from side_by_side import Step, clock_name, make_parser, report_rates, round_ratios, run_rounds, set_up
from torch import Tensor

from reslab.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from reslab.deploy.inputs import InferenceTransform, InputItem, list_inputs
from reslab.deploy.predict import PredictOptions, iter_predictions
from reslab.deploy.predictor import Predictor, build_predictor
from reslab.nn.factory import create_model
from reslab.nn.network import ResidualNetwork
from reslab.spec.preprocess import Preprocess

_NUM_READ_THREADS = 4
DECODE, MODEL, BOTH = "decoding alone", "network alone", "predict"


def make_candidates(
    network: ResidualNetwork, predictor: Predictor, items: list[InputItem], batch: int
) -> dict[str, Step]:
    """Return decoding alone, the network alone, and `predict`, each for all items."""
    assert network.preprocess is not None
    transform = InferenceTransform(network.preprocess, network.arch.image_size)

    def decode() -> list[Tensor | None]:
        with ThreadPoolExecutor(_NUM_READ_THREADS) as pool:
            return [image.pixels for image in pool.map(transform, items)]

    pixels = [image for image in decode() if image is not None]

    def compute() -> None:
        for start in range(0, len(pixels), batch):
            predictor(pixels[start : start + batch])

    def predict() -> None:
        result = list(iter_predictions(network, predictor, items, PredictOptions(batch_size=batch)))
        assert not any(prediction.error for prediction in result)

    return {DECODE: decode, MODEL: compute, BOTH: predict}


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--num-images", type=int, default=128)
    args: argparse.Namespace = parser.parse_args()
    set_up(args)
    network = create_model(args.model)
    assert isinstance(network, ResidualNetwork)
    network.preprocess = Preprocess(3, "resize(256) center-crop(224)", IMAGENET_MEAN, IMAGENET_STD)
    predictor = build_predictor(network, args.backend)
    assert isinstance(predictor, Predictor)
    items = list_inputs(str(args.folder))[: args.num_images]
    rates = run_rounds(make_candidates(network, predictor, items, args.batch_size), len(items), 1, args)
    report_rates(f"{args.model}, {predictor.backend}, {len(items)} files, {clock_name(args)}", rates, DECODE, args.json)
    slower = [min(pair) for pair in zip(rates[DECODE], rates[MODEL], strict=True)]
    shared = [1 / (1 / one + 1 / other) for one, other in zip(rates[DECODE], rates[MODEL], strict=True)]
    for title, bound in (("the slower part", slower), ("both parts one after another", shared)):
        print(f"predict: {statistics.median(round_ratios(rates[BOTH], bound)):.3f} times {title}")


if __name__ == "__main__":
    main()
