"""Names of ImageNet's classes: torchvision's, in the order of the WordNet ids that timm lists."""

from pathlib import Path

import pytest
from PIL import Image
from timm.data import ImageNetInfo

from reslab.data.formats import class_names as imagenet_names
from reslab.data.formats.class_names import readable
from reslab.data.registry import open_data

KNOWN = ImageNetInfo()
WNIDS = KNOWN.label_names()


def test_the_thousand_have_names_in_the_order_of_their_ids() -> None:
    names = readable(WNIDS)
    assert (names[0], names[281], names[999]) == ("tench", "tabby", "toilet tissue")
    assert len(set(names)) == 1000
    descriptions = [KNOWN.index_to_description(label).lower() for label in range(1000)]
    first_words = [name.lower().split()[0] for name in names]
    assert all(word in description for word, description in zip(first_words, descriptions, strict=True))


def test_names_that_two_classes_share_have_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    categories = ["crane" if label in (134, 517) else f"thing {label}" for label in range(1000)]
    monkeypatch.setattr(imagenet_names, "_IMAGENET_CATEGORIES", categories)
    names = readable(WNIDS)
    assert (names[134], names[517], names[0]) == ("crane (n02012849)", "crane (n03126707)", "thing 0")
    assert len(set(names)) == 1000


def test_other_folders_keep_their_names() -> None:
    assert readable(WNIDS[:10]) == tuple(WNIDS[:10])
    assert readable(["ant", "bee"]) == ("ant", "bee")


def test_the_data_set_tells_them(tmp_path: Path) -> None:
    picture = tmp_path / "picture.JPEG"
    Image.new("RGB", (40, 50)).save(picture, "jpeg")
    for split in ("train", "val"):
        for wnid in WNIDS:
            (tmp_path / split / wnid).mkdir(parents=True)
            (tmp_path / split / wnid / "0.JPEG").hardlink_to(picture)
    data = open_data("imagenet", tmp_path)
    assert data.classes[:2] == ("tench", "goldfish")
    assert data.splits["val"].labels.tolist() == list(range(1000))
    assert open_data(tmp_path).classes == data.classes
