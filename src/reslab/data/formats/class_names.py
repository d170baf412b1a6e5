"""Class names of published datasets in label order; readable names for ImageNet's WordNet ids."""

import hashlib
from collections import Counter
from collections.abc import Sequence

DIGIT_CLASSES = tuple("0123456789")
FASHION_MNIST_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# The fine labels, in alphabetical order (Krizhevsky 2009).
_CIFAR100_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
CIFAR100_CLASSES: tuple[str, ...] = tuple(_CIFAR100_NAMES.split())

# SHA-256 of the 1,000 WordNet ids of ILSVRC 2012 in lexicographic order, one a line.
_ILSVRC2012_WNIDS_SHA256 = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"


def readable_class_names(wnids: Sequence[str]) -> tuple[str, ...]:
    """Return names such as "tench" for n01440764 if these are the 1,000 classes of ILSVRC 2012; else return the ids.

    The names are those of torchvision's published weights; where two classes share one, the id follows the name.
    """
    if hashlib.sha256("\n".join(wnids).encode(errors="surrogateescape")).hexdigest() != _ILSVRC2012_WNIDS_SHA256:
        return tuple(wnids)
    from torchvision.models._meta import _IMAGENET_CATEGORIES  # here, because torchvision takes a second to import

    ambiguous_names = {name for name, count in Counter(_IMAGENET_CATEGORIES).items() if count > 1}
    pairs = zip(wnids, _IMAGENET_CATEGORIES, strict=True)
    return tuple(f"{name} ({wnid})" if name in ambiguous_names else name for wnid, name in pairs)
