"""ImageNet's thousand classes by names that can be read: "tench" for n01440764.

The names of CIFAR-100's fine labels in label order, which is alphabetical (Krizhevsky 2009).
"""

import hashlib
from collections import Counter
from collections.abc import Sequence

from torchvision.models._meta import _IMAGENET_CATEGORIES

# SHA-256 of the 1,000 WordNet ids of ILSVRC 2012 in lexicographic order, a line each.
_ILSVRC2012_WNIDS_SHA256 = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"


def readable_class_names(wnids: Sequence[str]) -> tuple[str, ...]:
    """The names of the classes, in the same order, where the ids are the thousand of ILSVRC 2012; else the ids.

    The names are those that torchvision's published weights tell; one that two classes share has the id behind it.
    """
    if hashlib.sha256("\n".join(wnids).encode()).hexdigest() != _ILSVRC2012_WNIDS_SHA256:
        return tuple(wnids)
    ambiguous_names = {name for name, count in Counter(_IMAGENET_CATEGORIES).items() if count > 1}
    pairs = zip(wnids, _IMAGENET_CATEGORIES, strict=True)
    return tuple(f"{name} ({wnid})" if name in ambiguous_names else name for wnid, name in pairs)


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
