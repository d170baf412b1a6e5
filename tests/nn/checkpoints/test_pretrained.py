"""Published weights, fetched from a server on loopback: cache, hash, bar, faults, preprocessing and class names."""

import hashlib
import http.server
import json
import sys
import threading
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torchvision.models import ResNet18_Weights, ResNet50_Weights

from reslab.nn.checkpoints import pretrained, published
from reslab.nn.checkpoints import pretrained as hub
from reslab.nn.checkpoints.load_report import CheckpointError, CheckpointWarning
from reslab.nn.checkpoints.published import (
    PublishedWeights,
    WeightsUnavailableError,
    fetch_weights,
    find_published_weights,
    hub_checkpoints_dir,
    list_published_tags,
)
from reslab.nn.factory import create_model
from reslab.nn.metadata import ImagePreprocess
from reslab.spec.preprocess import Preprocess
from reslab.spec.zoo import ARCHS

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLASSES = tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
COMMIT = "c" * 40
NOWHERE = "http://127.0.0.1:9"


class Server(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, as a web server or (under `resolve`) as the Hugging Face hub; `fault="cut"` ends answers
    early."""

    fault = ""
    requests: list[str]
    commit = COMMIT

    def log_message(self, *_) -> None:
        pass

    def file(self) -> Path:
        name = self.path.lstrip("/").replace(f"resolve/{COMMIT}/", "").replace("resolve/main/", "")
        return Path(self.directory) / name

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.requests.append(self.path)
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        path = self.file()
        if not path.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = path.read_bytes()
        etag = getattr(self, "sent_hash", None) or hashlib.sha256(body).hexdigest()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            with suppress(ConnectionError):  # the client may be gone
                self.wfile.write(body[: len(body) // 2] if self.fault == "cut" else body)


@contextmanager
def serving(folder):
    handler = type("Here", (Server,), {"requests": [], "directory": str(folder)})
    handler.__init__ = lambda self, *args: http.server.SimpleHTTPRequestHandler.__init__(self, *args, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield handler, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def site(tmp_path, monkeypatch, cache):
    folder = tmp_path / "site"
    folder.mkdir()
    with serving(folder) as (handler, url):
        monkeypatch.setenv("RESLAB_WEIGHTS_URL", url + "/")
        yield folder, handler


@pytest.fixture
def weights(site, monkeypatch):
    """Stand-in for torchvision's weights of resnet18: a file on the server, named by its hash."""
    folder, _ = site
    theirs = torchvision.models.resnet18()
    return offer(folder, theirs.state_dict(), monkeypatch), theirs


def offer(folder, state, monkeypatch, name="resnet18"):
    torch.save(state, folder / "w")
    digest = hashlib.sha256((folder / "w").read_bytes()).hexdigest()[:8]
    path = (folder / "w").rename(folder / f"{name}-{digest}.pth")
    result = replace(find_published_weights(name), url=f"https://nowhere.invalid/models/{path.name}")
    monkeypatch.setattr(pretrained, "find_published_weights", lambda *_: result)
    return path


def test_published_weights_come_with_their_preprocessing_and_class_names(weights, cache, capsys):
    path, theirs = weights
    ours = create_model("resnet18", pretrained=True)
    assert all(torch.equal(tensor, theirs.state_dict()[key]) for key, tensor in ours.state_dict().items())
    assert ours.preprocess == Preprocess(3, "resize(256) center-crop(224)", *IMAGENET)
    assert ours.classes == CLASSES
    assert (len(ours.classes), ours.classes[0]) == (1000, "tench")
    assert [file.name for file in cache.iterdir()] == [path.name]
    out, err = capsys.readouterr()
    assert out == ""
    assert "100%" in err
    assert path.name in err


def test_weights_in_the_cache_are_not_fetched_again(weights, site):
    _, handler = site
    create_model("resnet18", pretrained=True)
    create_model("resnet18", pretrained="IMAGENET1K_V1")
    assert len(handler.requests) == 1


def test_a_new_head_keeps_the_preprocessing_but_no_class_names(weights):
    ours = create_model("resnet18", pretrained=True, num_classes=4, in_channels=1)
    assert ours.classes is None
    assert ours.preprocess.channels == 1
    assert ours.load_report.reinitialized == ("fc.weight", "fc.bias")


def test_an_arch_with_other_classes_asks_for_a_new_head(weights):
    ours = create_model(replace(ARCHS["resnet18"], num_classes=3), pretrained=True)
    assert ours.load_report.reinitialized == ("fc.weight", "fc.bias")


def test_published_weights_in_another_function_are_warned_of(weights):
    with pytest.warns(CheckpointWarning, match="order='original'"):
        create_model("resnet18", pretrained=True, order="relu-before-add")


def test_dilated_and_frozen_networks_take_published_weights_without_a_warning(weights):
    axes = {"replace_stride_with_dilation": (False, True, True), "norm": "frozen"}
    assert create_model("resnet18", pretrained=True, **axes).load_report.is_complete


def test_a_wrong_hash_is_refused_and_nothing_stays(weights, cache):
    path, _ = weights
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(CheckpointError, match=r"required: a file whose SHA-256 begins with [0-9a-f]{8}; got: http"):
        create_model("resnet18", pretrained=True)
    assert not list(cache.iterdir())


def test_a_wrong_hash_in_the_cache_is_refused_and_the_file_left_to_its_owner(weights, cache):
    path, _ = weights
    cache.mkdir(parents=True)
    (cache / path.name).write_bytes(b"mine")
    with pytest.raises(CheckpointError, match=r"delete .*: it is then downloaded again"):
        create_model("resnet18", pretrained=True)
    assert (cache / path.name).read_bytes() == b"mine"


def test_an_interrupted_download_leaves_nothing_in_the_cache(weights, site, cache):
    _, handler = site
    handler.fault = "cut"
    with pytest.raises(WeightsUnavailableError, match="truncated"):
        create_model("resnet18", pretrained=True)
    assert not list(cache.iterdir())
    handler.fault = ""
    assert create_model("resnet18", pretrained=True).load_report.is_complete


def test_ctrl_c_leaves_nothing_in_the_cache(weights, cache, monkeypatch):
    path, _ = weights

    class Interrupted:
        def __init__(self, **_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def update(self, _):
            raise KeyboardInterrupt

    monkeypatch.setitem(vars(torch.hub), "tqdm", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch_weights(f"https://nowhere.invalid/{path.name}", "", "weights")
    assert not list(cache.iterdir())


@pytest.mark.parametrize("response", ["refused", "404"])
def test_the_offline_error_names_the_file_and_its_folder(weights, cache, monkeypatch, response):
    path, _ = weights
    if response == "refused":
        monkeypatch.setenv("RESLAB_WEIGHTS_URL", NOWHERE)
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(WeightsUnavailableError) as error:
        create_model("resnet18", pretrained=True)
    for part in (
        "IMAGENET1K_V1 of resnet18",
        path.name,
        str(cache),
        "elsewhere and put it at " + str(cache / path.name),
    ):
        assert part in str(error.value)
    (cache / path.name).write_bytes(content)
    assert create_model("resnet18", pretrained=True).load_report.is_complete


def test_without_a_mirror_the_published_url_is_used(cache, monkeypatch):
    """The guard of the suite stands in for a machine without a network."""
    monkeypatch.delenv("RESLAB_WEIGHTS_URL", raising=False)
    with pytest.raises(
        WeightsUnavailableError, match=r"https://download\.pytorch\.org/models/resnet18-f37072fd\.pth cannot be read"
    ):
        create_model("resnet18", pretrained=True)


def test_a_folder_that_cannot_be_created_is_an_error_of_its_own(weights, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="could not be written"):
        fetch_weights("https://nowhere.invalid/w-00000000.pth", "", "weights", tmp_path / "file" / "below")


def test_the_cache_is_torchs_own(cache):
    assert hub_checkpoints_dir() == cache == Path(torch.hub.get_dir()) / "checkpoints"


TAGS = [
    True,
    "DEFAULT",
    "IMAGENET1K_V2",
    "ResNet50_Weights.IMAGENET1K_V2",
    "ResNet50_Weights.DEFAULT",
    ResNet50_Weights.DEFAULT,
]


@pytest.mark.parametrize("tag", TAGS, ids=str)
def test_torchvisions_forms_of_a_tag(tag):
    result = find_published_weights("resnet50", tag)
    assert result.tag == "IMAGENET1K_V2"
    assert result.url == ResNet50_Weights.IMAGENET1K_V2.url
    assert result.hash_prefix == "11ad3fa6"
    assert result.preprocess.transform == "resize(232) center-crop(224)"


def test_every_network_that_torchvision_has_weights_of_has_them_here():
    names = [name for name in torchvision.models.list_models(torchvision.models) if name in ARCHS]
    assert {"resnet18", "resnext101_64x4d", "wide_resnet101_2"} <= set(names)
    for name in names:
        members = torchvision.models.get_model_weights(name)
        assert list_published_tags(name)[: len(members)] == [member.name for member in members]
        for member in members:
            result = find_published_weights(name, member.name)
            assert (result.url, len(result.classes), len(result.hash_prefix)) == (member.url, 1000, 8)


@pytest.mark.parametrize("tag", ["a1_in1k", "resnet50.a1_in1k", "timm/resnet50.a1_in1k"])
def test_timms_forms_of_a_tag(tag):
    result = find_published_weights("resnet50", tag)
    assert (result.tag, result.repo, result.hash_prefix) == ("a1_in1k", "timm/resnet50.a1_in1k", "14fe96d1")
    assert result.preprocess == Preprocess(3, "resize(235,bicubic) center-crop(224)", *IMAGENET)
    assert result.classes == CLASSES
    assert result.messages == ()


@pytest.mark.parametrize(
    "name",
    [
        "resnet18.tv_in1k",  # bilinear
        "resnet50.a1_in1k",  # bicubic
        "resnet50d.ra2_in1k",  # bicubic, 288 pixels in its test size
        "resnetv2_50x1_bit.goog_in21k_ft_in1k",  # 448 pixels, mean and deviation 0.5
        "dm_nfnet_f0.dm_in1k",  # squash: both sides are resized
    ],
)
def test_the_preprocessing_is_timms_own(name):
    timm_data = pytest.importorskip("timm.data")
    from timm.models import get_pretrained_cfg

    generator = torch.Generator().manual_seed(1)
    smooth = torch.rand(3, 23, 31, generator=generator)
    smooth = torch.nn.functional.interpolate(smooth[None], (377, 510), mode="bicubic", align_corners=False)[0]
    noise = torch.rand(3, 377, 510, generator=generator)
    image = torchvision.transforms.functional.to_pil_image((0.7 * smooth + 0.3 * noise).clamp(0, 1))
    cfg = get_pretrained_cfg(name).to_dict()
    theirs = timm_data.create_transform(**timm_data.resolve_data_config(pretrained_cfg=cfg))(image)
    preprocess = find_published_weights(*name.split(".")).preprocess
    ours = ImagePreprocess.for_network(preprocess, tuple(theirs.shape[1:]))(image)[0]
    gray_levels = (ours - theirs) * torch.tensor(preprocess.std).view(3, 1, 1) * 255
    assert gray_levels.abs().max() < 1.01
    assert gray_levels.abs().mean() < 0.02


def test_values_that_timms_config_lacks_are_timms_defaults():
    assert published.timm_preprocess({}) == (Preprocess(3, "resize(256,bicubic) center-crop(224)", *IMAGENET), ())
    squash = {"input_size": (3, 96, 96), "crop_pct": 0.9, "crop_mode": "squash", "interpolation": "bilinear"}
    assert published.timm_preprocess(squash)[0].transform == "resize(106,106) center-crop(96)"
    border, messages = published.timm_preprocess({"crop_mode": "border", "interpolation": "lanczos"})
    assert border.transform == "resize(256,bicubic) center-crop(224)"
    assert ["border" in messages[0], "lanczos" in messages[1]] == [True, True]


def test_timms_default_is_taken_where_torchvision_has_none():
    assert find_published_weights("resnet50d").tag == "ra2_in1k"
    v2 = find_published_weights("resnetv2_50")
    assert (v2.url, v2.repo) == ("", "timm/resnetv2_50.a1h_in1k")
    assert v2.preprocess.mean == (0.5, 0.5, 0.5)


def test_tags_that_are_none_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"unknown weights of resnet50 'IMAGENET1K_V3'; nearest: 'IMAGENET1K_V"):
        create_model("resnet50", pretrained="IMAGENET1K_V3")
    with pytest.raises(
        ValueError, match=r"weights of resnet18: ResNet18_Weights; got: ResNet50_Weights\.IMAGENET1K_V1"
    ):
        create_model("resnet18", pretrained=ResNet50_Weights.IMAGENET1K_V1)
    with pytest.raises(ValueError, match=r"create_model\('resnet50d', pretrained='timm/resnet50d\.ra2_in1k'\)"):
        create_model("resnet50", pretrained="timm/resnet50d.ra2_in1k")
    with pytest.raises(FileNotFoundError, match=r"no such file: weights/resnet50\.pth"):
        create_model("resnet50", pretrained="weights/resnet50.pth")


def test_a_network_without_published_weights_names_those_that_have_them():
    with pytest.raises(WeightsUnavailableError, match=r"got: resnet50_v1; nearest valid: resnet50"):
        create_model("resnet50_v1", pretrained=True)
    assert issubclass(WeightsUnavailableError, ValueError)


@pytest.mark.parametrize(
    ("name", "source"), [("resnet50", "a1_in1k"), ("resnet50d", True), ("resnet50", "hf-hub:org/name")]
)
def test_without_the_extra_the_error_names_it(monkeypatch, name, source):
    monkeypatch.setattr(published, "has_timm", lambda: False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsUnavailableError, match=r"pip install 'reslab\[timm\]'"):
        create_model(name, pretrained=source)


@pytest.fixture
def on_hub(tmp_path, monkeypatch):
    """A hub on loopback with one repository, org/small, of a small resnet18d in timm's manner."""
    import huggingface_hub.constants

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "site" / "org" / "small"
    folder.mkdir(parents=True)
    theirs = create_model("resnet18d", depths=(1, 1, 1, 1), num_classes=3)
    save_file(theirs.state_dict(), folder / "model.safetensors")
    facts = {
        "mean": IMAGENET[0],
        "std": IMAGENET[1],
        "input_size": [3, 96, 96],
        "crop_pct": 0.96,
        "interpolation": "bilinear",
    }
    config = {
        "architecture": "resnet18d",
        "num_classes": 3,
        "label_names": ["ant", "bee", "wasp"],
        "pretrained_cfg": facts,
    }
    (folder / "config.json").write_text(json.dumps(config))
    with serving(tmp_path / "site") as (handler, url):
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield folder, handler, theirs


def from_hub(**axes):
    return create_model("resnet18d", depths=(1, 1, 1, 1), pretrained="hf-hub:org/small", num_classes=3, **axes)


def test_a_hub_repository_is_loaded_with_its_classes_and_preprocessing(on_hub):
    _, handler, theirs = on_hub
    ours = from_hub()
    assert all(torch.equal(tensor, theirs.state_dict()[key]) for key, tensor in ours.state_dict().items())
    assert ours.preprocess == Preprocess(3, "resize(100) center-crop(96)", *IMAGENET)
    assert ours.classes == ("ant", "bee", "wasp")
    num_requests = len(handler.requests)
    from_hub()
    assert len(handler.requests) == num_requests


def test_a_transformers_repository_is_loaded_with_its_classes_and_preprocessing(on_hub):
    folder, _, _ = on_hub
    (folder / "config.json").write_text(json.dumps({"id2label": {"1": "bee", "0": "ant", "2": "wasp"}}))
    facts = {"size": {"shortest_edge": 224}, "crop_pct": 0.875, "image_mean": IMAGENET[0], "image_std": IMAGENET[1]}
    (folder / "preprocessor_config.json").write_text(json.dumps(facts))
    ours = from_hub()
    assert ours.classes == ("ant", "bee", "wasp")
    assert ours.preprocess == Preprocess(3, "resize(256) center-crop(224)", *IMAGENET)


@pytest.mark.parametrize(
    ("values", "transform"),
    [
        ({"size": {"shortest_edge": 224}, "resample": 2}, "resize(256) center-crop(224)"),
        ({"size": {"shortest_edge": 224}, "resample": 3}, "resize(256,bicubic) center-crop(224)"),
        ({"size": {"shortest_edge": 384}, "resample": 3}, "resize(384,384,bicubic)"),
    ],
)
def test_transformers_resampling_is_kept(values, transform):
    config = {"image_mean": IMAGENET[0], "image_std": IMAGENET[1], **values}
    assert hub._transformers_preprocess(config) == Preprocess(3, transform, *IMAGENET)


def test_a_repository_without_preprocessing_is_loaded_with_a_message(on_hub, caplog):
    folder, _, _ = on_hub
    (folder / "config.json").unlink()
    ours = from_hub()
    assert (ours.preprocess, ours.classes) == (None, None)
    assert "org/small defines no preprocessing" in caplog.text


def test_older_repositories_hold_a_pickle_of_tensors(on_hub):
    folder, _, theirs = on_hub
    (folder / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), folder / "pytorch_model.bin")
    assert from_hub().load_report.is_complete


def test_a_file_of_the_hub_with_another_hash_is_refused_and_removed(on_hub):
    _, handler, _ = on_hub
    handler.sent_hash = "0" * 64
    with pytest.raises(CheckpointError, match="a file with the SHA-256 0000"):
        hub.fetch_from_hub("org/small")
    handler.sent_hash = None
    assert from_hub().load_report.is_complete


def test_timms_weights_without_a_hash_in_their_name_come_from_the_hub(on_hub, monkeypatch):
    result = PublishedWeights("resnet18d", "tag", repo="org/small")
    monkeypatch.setattr(pretrained, "find_published_weights", lambda *_: result)
    ours = create_model("resnet18d", depths=(1, 1, 1, 1), pretrained="tag", num_classes=3)
    assert ours.load_report.file == "org/small"


def test_an_offline_hub_is_an_error_of_its_own(on_hub, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsUnavailableError, match="HF_HUB_OFFLINE is set"):
        from_hub()


def test_a_repository_without_weights_is_reported(on_hub):
    folder, _, _ = on_hub
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        WeightsUnavailableError, match=r"org/small cannot be read \(model\.safetensors of org/small: .*404"
    ):
        from_hub()


def test_the_error_for_an_unreachable_hub_names_the_file_to_download(on_hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    with pytest.raises(WeightsUnavailableError, match=r"org/small/resolve/main/model\.safetensors elsewhere"):
        from_hub()
