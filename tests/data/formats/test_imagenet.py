"""ImageNet's layouts: class folders, and the flat validation folder with each of the files that label it.

Names of ImageNet's classes: torchvision's, in the order of the WordNet ids that timm lists.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from timm.data import ImageNetInfo

from reslab.data.dataset_names import readable_class_names
from reslab.data.registry import open_dataset

WNIDS = ("n01440764", "n01443537", "n02119789")
TRUTH = [2, 0, 1, 1, 2]  # of the images 1..5, as places among the sorted ids


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 50)).save(path, "jpeg")


def write_train(root: Path) -> None:
    for k, wnid in enumerate(WNIDS):
        for i in range(k + 1):
            image(root / "train" / wnid / f"{wnid}_{i}.JPEG")


def write_flat(root: Path) -> None:
    for number in range(1, 6):
        image(root / "val" / f"ILSVRC2012_val_{number:08}.JPEG")


def write_devkit(folder: Path) -> None:
    import scipy.io

    folder.mkdir(parents=True)
    # The kit numbers the classes in another order than that of their ids, and has inner nodes too.
    rows = [(3, WNIDS[0], 0), (1, WNIDS[1], 0), (2, WNIDS[2], 0), (4, "n99999999", 3)]
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")]
    scipy.io.savemat(folder / "meta.mat", {"synsets": np.array(rows, dtype=kinds)})
    numbers = {0: "3", 1: "1", 2: "2"}
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(numbers[k] for k in TRUTH) + "\n")


def write_labels(root: Path, kind: str) -> None:
    names = [f"ILSVRC2012_val_{number:08}" for number in range(1, 6)]
    wnids = [WNIDS[k] for k in TRUTH]
    if kind == "kaggle":
        lines = [f"{name},{wnid} 1 2 30 40 " for name, wnid in zip(names, wnids, strict=True)]
        (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *reversed(lines)]))
    elif kind == "lines":
        (root / "imagenet_2012_validation_synset_labels.txt").write_text("\n".join(wnids) + "\n")
    elif kind == "caffe":
        (root / "val.txt").write_text("".join(f"{name}.JPEG {k}\n" for name, k in zip(names, TRUTH, strict=True)))
    else:
        write_devkit(root / "ILSVRC2012_devkit_t12" / "data")


def test_class_folders(tmp_path: Path) -> None:
    write_train(tmp_path)
    for wnid in WNIDS:
        image(tmp_path / "val" / wnid / "x.JPEG")
    data = open_dataset("imagenet", tmp_path)
    assert (data.name, data.classes, data.eval_split) == ("imagenet", WNIDS, "val")
    assert data.splits["train"].labels.tolist() == [0, 1, 1, 2, 2, 2]
    assert data.preprocess.transform == "resize(256) center-crop(224)"
    assert data.preprocess.mean == (0.485, 0.456, 0.406)
    with pytest.raises(ValueError, match="one validation split for imagenet"):
        open_dataset("imagenet", tmp_path, val_fraction=0.5)


@pytest.mark.parametrize("inner", [".", "imagenet", "ILSVRC/Data/CLS-LOC"])
@pytest.mark.parametrize("kind", ["kaggle", "lines", "caffe", "devkit"])
def test_flat_validation(tmp_path: Path, kind: str, inner: str) -> None:
    root = tmp_path / inner
    write_train(root), write_flat(root)
    write_labels(tmp_path if inner.startswith("ILSVRC") else root, kind)
    data = open_dataset("imagenet", tmp_path)
    images = data.splits["val"]
    assert [images.name(i) for i in (0, 4)] == ["val/ILSVRC2012_val_00000001.JPEG", "val/ILSVRC2012_val_00000005.JPEG"]
    assert images.labels.tolist() == TRUTH
    # Only some of the images are there: each is still looked up by its number.
    (root / "val" / "ILSVRC2012_val_00000002.JPEG").unlink()
    assert open_dataset("imagenet", tmp_path).splits["val"].labels.tolist() == [2, 1, 1, 2]


def test_only_a_validation_part(tmp_path: Path) -> None:
    write_flat(tmp_path), write_labels(tmp_path, "lines")
    data = open_dataset("imagenet", tmp_path)
    assert (set(data.splits), data.classes) == ({"val"}, WNIDS)
    (tmp_path / "imagenet_2012_validation_synset_labels.txt").unlink()
    write_labels(tmp_path, "caffe")
    with pytest.raises(ValueError, match="no train/"):
        open_dataset("imagenet", tmp_path)


def refused(root: Path) -> str:
    with pytest.raises(ValueError) as caught:
        open_dataset("imagenet", root)
    return str(caught.value)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    assert "train/WNID/*.JPEG and val/ as --data-dir" in refused(tmp_path / "nothing")
    write_train(tmp_path), write_flat(tmp_path)
    message = refused(tmp_path)
    assert "the labels of the 5 images" in message
    assert "LOC_val_solution.csv" in message
    labels = tmp_path / "imagenet_2012_validation_synset_labels.txt"
    labels.write_text("\n".join([WNIDS[0]] * 4))
    assert "ILSVRC2012_val_00000005.JPEG" in refused(tmp_path)
    labels.write_text("\n".join([*[WNIDS[0]] * 4, "tench"]))
    assert "'tench'" in refused(tmp_path)
    labels.write_text("\n".join([*[WNIDS[0]] * 4, "n12345678"]))
    assert "n12345678/ only in" in refused(tmp_path)
    labels.unlink()
    (tmp_path / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG 3\n")
    assert "a number below 3" in refused(tmp_path)
    (tmp_path / "val.txt").unlink()
    (tmp_path / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n")
    assert "meta.mat" in refused(tmp_path)


KNOWN = ImageNetInfo()
WNIDS_imagenet_names = KNOWN.label_names()


def test_the_thousand_have_names_in_the_order_of_their_ids() -> None:
    names = readable_class_names(WNIDS_imagenet_names)
    assert (names[0], names[281], names[999]) == ("tench", "tabby", "toilet tissue")
    assert len(set(names)) == 1000
    descriptions = [KNOWN.index_to_description(label).lower() for label in range(1000)]
    first_words = [name.lower().split()[0] for name in names]
    assert all(word in description for word, description in zip(first_words, descriptions, strict=True))


def test_names_that_two_classes_share_have_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    categories = ["crane" if label in (134, 517) else f"thing {label}" for label in range(1000)]
    monkeypatch.setattr("torchvision.models._meta._IMAGENET_CATEGORIES", categories)
    names = readable_class_names(WNIDS_imagenet_names)
    assert (names[134], names[517], names[0]) == ("crane (n02012849)", "crane (n03126707)", "thing 0")
    assert len(set(names)) == 1000


def test_other_folders_keep_their_names() -> None:
    assert readable_class_names(WNIDS_imagenet_names[:10]) == tuple(WNIDS_imagenet_names[:10])
    assert readable_class_names(["ant", "bee"]) == ("ant", "bee")


def test_the_dataset_has_the_readable_names(tmp_path: Path) -> None:
    image = tmp_path / "image.JPEG"
    Image.new("RGB", (40, 50)).save(image, "jpeg")
    for split in ("train", "val"):
        for wnid in WNIDS_imagenet_names:
            (tmp_path / split / wnid).mkdir(parents=True)
            shutil.copy(image, tmp_path / split / wnid / "0.JPEG")
    data = open_dataset("imagenet", tmp_path)
    assert data.classes[:2] == ("tench", "goldfish")
    assert data.splits["val"].labels.tolist() == list(range(1000))
    assert open_dataset(tmp_path).classes == data.classes
