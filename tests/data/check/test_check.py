"""`check_data` finds what is planted in a folder, and nothing else."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from reslab.data.check.check import DataCheck, Finding, check_data
from reslab.data.check.duplicates import MAX_HASH_DISTANCE, ImageInfo, difference_hash, find_near_duplicates
from reslab.data.check.findings import list_findings
from reslab.data.registry import open_dataset


def photograph(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    """Coarse noise, smoothly enlarged: as different from one seed to another as photographs are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    seed = 0
    for split, num in (("train", 24), ("val", 5)):
        for name in ("ants", "bees"):
            (root / split / name).mkdir(parents=True)
            for i in range(num):
                photograph(seed).save(root / split / name / f"{i:02}.png")
                seed += 1
    return root


def kinds(check: DataCheck) -> dict[str, Finding]:
    findings = list_findings(check)
    assert len({finding.kind for finding in findings}) == len(findings)
    return {finding.kind: finding for finding in findings}


def test_a_sound_folder_has_no_findings(folder: Path) -> None:
    check = check_data(folder)
    assert list_findings(check) == []
    result = check.to_dict()
    assert json.loads(json.dumps(result)) == result
    assert result["splits"]["train"] == {"num_images": 48, "per_class": {"ants": 24, "bees": 24}}
    assert result["num_images"] == 58
    assert result["sizes"] == {
        "height": {"min": 90, "median": 90, "max": 90},
        "width": {"min": 120, "median": 120, "max": 120},
        "num_sizes": 1,
        "most_common": {"height": 90, "width": 120, "num_images": 58},
    }
    assert (result["channels"], result["imbalance"], result["layout_error"]) == ({"3": 58}, 1.0, "")


def test_copies_are_reported_where_they_are(folder: Path) -> None:
    train, val = folder / "train", folder / "val"
    shutil.copy(train / "ants" / "00.png", val / "ants" / "copy.png")
    Image.open(train / "ants" / "01.png").save(train / "ants" / "other.webp", lossless=True)  # other bytes, same pixels
    shutil.copy(train / "ants" / "02.png", train / "bees" / "wrong.png")
    check = check_data(folder)
    result = check.to_dict()
    assert sorted(result["duplicates"]) == [
        ["train/ants/00.png", "val/ants/copy.png"],
        ["train/ants/01.png", "train/ants/other.webp"],
        ["train/ants/02.png", "train/bees/wrong.png"],
    ]
    assert result["near_duplicates"] == []
    assert result["cross_split_duplicates"] == [{"paths": ["train/ants/00.png", "val/ants/copy.png"], "exact": True}]
    assert result["label_conflicts"] == [["train/ants/02.png", "train/bees/wrong.png"]]
    findings = kinds(check)
    assert set(findings) == {"cross-split-duplicates", "label-conflicts", "duplicates"}
    assert "training and validation" in findings["cross-split-duplicates"].text
    assert "train/ants/01.png = train/ants/other.webp" in findings["duplicates"].text


def test_near_duplicates(folder: Path) -> None:
    train = folder / "train" / "ants"
    image = Image.open(train / "00.png")
    image.resize((60, 45)).convert("RGB").save(folder / "val" / "ants" / "small.jpg", quality=70)
    ImageEnhance.Brightness(Image.open(train / "01.png")).enhance(1.15).save(train / "bright.png")
    check = check_data(folder)
    result = check.to_dict()
    assert [sorted(group["paths"]) for group in result["near_duplicates"]] == [
        ["train/ants/00.png", "val/ants/small.jpg"],
        ["train/ants/01.png", "train/ants/bright.png"],
    ]
    assert all(group["max_distance"] <= MAX_HASH_DISTANCE for group in result["near_duplicates"])
    assert result["duplicates"] == []
    assert [shared["exact"] for shared in result["cross_split_duplicates"]] == [False]
    assert set(kinds(check)) == {"cross-split-near-duplicates", "near-duplicates"}
    shutil.copy(train / "00.png", train / "again.png")  # an exact copy belongs to the group of the near one
    groups = check_data(folder).to_dict()["near_duplicates"]
    assert sorted(groups[0]["paths"]) == ["train/ants/00.png", "train/ants/again.png", "val/ants/small.jpg"]


def test_files_of_every_kind(folder: Path) -> None:
    train = folder / "train" / "ants"
    whole = (train / "03.png").read_bytes()
    (train / "03.png").write_bytes(whole[: len(whole) // 2])
    (train / "empty.jpg").touch()
    (train / "text.gif").write_text("no image")
    Image.new("RGB", (100, 100), (9, 9, 9)).save(train / "blank.png")
    Image.fromarray(np.asarray(photograph(100).convert("L"))).save(train / "grey.png")
    photograph(101).convert("RGBA").save(train / "alpha.png")
    photograph(102, (200, 20)).save(train / "long.png")
    photograph(103, (300, 200)).save(train / "large.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph(104).save(train / "turned.jpg", exif=exif)
    check = check_data(folder)
    findings = kinds(check)
    assert set(findings) == {"unreadable", "blank", "channels", "exif-rotated", "elongated", "small-images"}
    assert findings["unreadable"].severity == "error"
    assert findings["unreadable"].text.startswith("3 files cannot be read: train/ants/03.png")
    result = check.to_dict()
    assert [bad["path"] for bad in result["unreadable"]] == [
        f"train/ants/{n}" for n in ("03.png", "empty.jpg", "text.gif")
    ]
    assert result["unreadable"][1]["error"] == "empty (0 bytes)"
    assert result["channels"] == {"1": 1, "3": 61, "4": 1}
    assert (result["num_exif_rotated"], result["blank"]) == (1, ["train/ants/blank.png"])
    assert result["sizes"]["height"] == {"min": 20, "median": 90, "max": 200}
    assert result["splits"]["train"]["per_class"]["ants"] == 32  # readable or not


def test_uneven_and_small_classes(folder: Path) -> None:
    for path in sorted((folder / "train" / "bees").iterdir())[6:]:
        path.unlink()
    check = check_data(folder)
    assert check.imbalance == 4.0
    findings = kinds(check)
    assert set(findings) == {"imbalance", "small-classes"}
    assert "4 to 1: 24 images of ants, 6 of bees" in findings["imbalance"].text


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_flat_folder_is_a_finding(folder: Path, split: str) -> None:
    flat = folder / split
    if split == "val":
        shutil.rmtree(flat)
    flat.mkdir()
    for i in range(3):
        photograph(200 + i).save(flat / f"{i}.png")
    shutil.copy(folder / "train" / "ants" / "00.png", flat / "3.png")
    check = check_data(folder)
    result, actual = check.to_dict(), kinds(check)
    assert result["unlabeled"] == {split: 4}
    assert actual["unlabeled"].severity == ("error" if split == "val" else "note")
    assert [shared["paths"] for shared in result["cross_split_duplicates"]] == [["train/ants/00.png", f"{split}/3.png"]]
    assert ("layout" in actual) == (split == "val")  # training refuses the one and passes over the other


def test_layouts_that_training_rejects_are_still_checked(folder: Path) -> None:
    (folder / "val" / "bees").rename(folder / "val" / "bee")
    (folder / "train" / "wasps").mkdir()
    check = check_data(folder)
    assert check.listing.classes == ("ants", "bee", "bees", "wasps")
    assert len(check.images) == 58
    assert kinds(check)["layout"].severity == "error"
    assert check.imbalance == float("inf")


def test_one_folder_and_a_class_called_train(tmp_path: Path) -> None:
    for k, name in enumerate(("bus", "train")):
        (tmp_path / name).mkdir()
        for i in range(20):
            photograph(20 * k + i).save(tmp_path / name / f"{i}.png")
    check = check_data(tmp_path)
    assert check.counts == {"train": {"bus": 20, "train": 20}}
    assert list_findings(check) == []


def test_tables_shards_and_names(folder: Path) -> None:
    rows = [f"{path.relative_to(folder)},{path.parent.name}" for path in sorted(folder.glob("train/*/*"))]
    (folder / "list.csv").write_text("\n".join(["path,label", *rows, "train/ants/gone.png,ants"]))
    result = check_data(folder / "list.csv").to_dict()
    assert result["splits"]["train"]["per_class"] == {"ants": 25, "bees": 24}
    assert (result["missing"], result["unreadable"]) == (["train/ants/gone.png"], [])
    import io
    import tarfile

    with tarfile.open(folder / "train-0.tar", "w") as tar:
        for i, path in enumerate(sorted(folder.glob("train/*/*"))):
            for name, content in ((f"{i}.png", path.read_bytes()), (f"{i}.cls", path.parent.name.encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    result = check_data(folder / "train-0.tar").to_dict()
    assert result["splits"]["train"]["per_class"] == {"ants": 24, "bees": 24}
    assert result["unreadable"] == []
    result = check_data("digits").to_dict()
    assert (result["num_images"], result["channels"], result["near_duplicates"]) == (1797, {"1": 1797}, [])


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nearest: 'digits'"):
        check_data("digit")
    with pytest.raises(ValueError, match="no such folder"):
        check_data(tmp_path / "nothing")


def test_difference_hash_by_its_definition() -> None:
    ramp = Image.fromarray(np.tile(np.arange(9, dtype=np.uint8)[::-1] * 20, (8, 1)))
    assert difference_hash(ramp) == (1 << 64) - 1
    assert difference_hash(ramp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) == 0
    one = np.zeros((8, 9), np.uint8)
    one[0, 0] = 200  # brighter than its right neighbour: the first bit, the highest
    assert difference_hash(Image.fromarray(one)) == 1 << 63


def test_a_damaged_jpeg_is_a_finding(folder: Path) -> None:
    path = folder / "train" / "ants" / "damaged.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 60] = bytes(range(100, 160))
    path.write_bytes(content)
    check = check_data(folder)
    (entry,) = check.to_dict()["decode_warnings"]
    assert entry["path"] == "train/ants/damaged.jpg"
    assert entry["warning"].startswith("Corrupt JPEG data: ")
    assert [finding.severity for finding in list_findings(check) if finding.kind == "decode-warnings"] == ["warning"]
    data = open_dataset(folder)
    assert data.decode_warnings == (("train/ants/damaged.jpg", entry["warning"]),)
    assert data.decode_warning_text.startswith("1 image is damaged, but decoded with a warning (train/ants/")
    assert open_dataset(folder).decode_warnings == data.decode_warnings  # from the cache


def test_near_pairs_are_those_of_brute_force() -> None:
    draw = random.Random(0)
    sketch = np.random.default_rng(0).random((8, 8, 3)).astype(np.float32) * 255
    hashes = [draw.getrandbits(64) for _ in range(60)]
    for origin in hashes[:30]:
        flipped = origin
        for bit in draw.sample(range(64), draw.randint(1, 9)):
            flipped ^= 1 << bit
        hashes.append(flipped)
    looks = [ImageInfo(str(i), "", 99, 99, digest=bytes([i]), dhash=h, thumbnail=sketch) for i, h in enumerate(hashes)]
    expected = {
        (i, j) for i in range(90) for j in range(i + 1, 90) if (hashes[i] ^ hashes[j]).bit_count() <= MAX_HASH_DISTANCE
    }
    assert 10 < len(expected) < 30
    assert {twins.indices for twins in find_near_duplicates(looks)} == expected
    assert all(
        twins.max_distance == (hashes[twins.indices[0]] ^ hashes[twins.indices[1]]).bit_count()
        for twins in find_near_duplicates(looks)
    )


def test_files_and_folders_that_are_not_read(folder: Path) -> None:
    (folder / "train" / "ants" / "x.xyz").touch()
    (folder / "train" / "@eaDir").mkdir()
    check = check_data(folder)
    findings = kinds(check)
    assert set(findings) == {"ignored-files", "system-folders"}
    assert findings["ignored-files"].text.startswith(
        "1 file is ignored, by ending not an image: 1 .xyz (train/ants/x.xyz)"
    )
    assert "@eaDir" in findings["system-folders"].text
    assert check.to_dict()["ignored"] == {
        "other_files": 1, "repeated": 0, "folders": [], "system_folders": ["@eaDir"]
    }  # fmt: skip


def test_class_names_that_differ_in_case_or_blanks(folder: Path) -> None:
    for split in ("train", "val"):
        for k, name in enumerate(("Ants", "be es")):
            (folder / split / name).mkdir()
            for i in range(20):
                photograph(1000 * (split == "val") + 500 + 100 * k + i).save(folder / split / name / f"{i}.png")
    findings = kinds(check_data(folder))
    assert set(findings) == {"similar-classes"}
    assert "'Ants' and 'ants', 'be es' and 'bees'" in findings["similar-classes"].text
