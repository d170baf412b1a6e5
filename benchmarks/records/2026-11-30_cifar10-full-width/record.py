"""CIFAR-10: a mean test accuracy of 0.94 with twelve epochs of Muon on two cores.

The recipe `fast-gpu` as it is, not compiled: `resnet11_fast`, 0.2 billion multiply-adds an image. The probabilities
over an image and its mirror image are averaged in the evaluation. There is no aim for the time: as soon as possible.

The settings were chosen with a GPU on 5,000 validation images held out of the training images. Seed 0 took no part.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from time_to_accuracy import Aim, run_record

AIM = Aim("cifar10", 0.94, None, "fast-gpu", {"compile": "false"}, tta="flip")

if __name__ == "__main__":
    run_record(__file__, __doc__, AIM)
