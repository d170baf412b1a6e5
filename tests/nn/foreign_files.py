"""Writers of files of other frameworks, from a network of ours: each follows the published layout of its format."""

import io
import json
import pickle
import re
import zipfile

import numpy as np

NORM_LEAVES = ("weight", "bias", "running_mean", "running_var")


def renamed(network, rules):
    """Return the network's tensors as arrays under another code base's names; counters are left out."""
    arrays = {}
    for key, tensor in network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        for pattern, template in rules:
            key = re.sub(pattern, template, key, count=1)
        arrays[key] = tensor.detach().numpy()
    return arrays


def bare_npz(network, path):
    """Lasagne: W of a convolution; beta, gamma, mean, 1 / sqrt(var + eps) of a norm; W (in, out), b of a dense layer.

    The entries are stored in alphabetical order, so `arr_10` comes ahead of `arr_2`.
    """
    arrays = []
    state = {key: tensor.numpy() for key, tensor in network.state_dict().items()}
    for key, array in state.items():
        layer, _, leaf = key.rpartition(".")
        if leaf != "weight":
            continue
        if array.ndim == 1:
            std = np.sqrt(state[f"{layer}.running_var"] + network.arch.norm_eps)
            arrays += [state[f"{layer}.bias"], array, state[f"{layer}.running_mean"], (1 / std).astype("f4")]
        else:
            arrays += [array.T if array.ndim == 2 else array]
            arrays += [state[f"{layer}.bias"]] if array.ndim == 2 else []
    named = {f"arr_{i}": array for i, array in enumerate(arrays)}
    np.savez(path, **{name: named[name] for name in sorted(named)})


BIT_RULES = (
    (r"^conv1\.weight$", "resnet/root_block/standardized_conv2d/kernel"),
    (r"^layer(\d)\.(\d)\.", r"resnet/block\1/unit0\2+/"),
    (r"/downsample\.0\.weight$", "/a/proj/standardized_conv2d/kernel"),
    *((rf"/conv{k}\.weight$", f"/{letter}/standardized_conv2d/kernel") for k, letter in enumerate("abc", 1)),
    *((rf"/bn{k}\.weight$", f"/{letter}/group_norm/gamma") for k, letter in enumerate("abc", 1)),
    *((rf"/bn{k}\.bias$", f"/{letter}/group_norm/beta") for k, letter in enumerate("abc", 1)),
    (r"^norm\.weight$", "resnet/group_norm/gamma"),
    (r"^norm\.bias$", "resnet/group_norm/beta"),
    (r"^fc\.weight$", "resnet/head/conv2d/kernel"),
    (r"^fc\.bias$", "resnet/head/conv2d/bias"),
)


def bit_npz(network, path):
    """BiT: kernels H W I O, the head a 1x1 convolution, units numbered from 01."""
    arrays = {}
    for key, array in renamed(network, BIT_RULES).items():
        key = re.sub(r"unit0(\d)\+", lambda match: f"unit{int(match[1]) + 1:02d}", key)
        array = array[:, :, None, None] if key.endswith("head/conv2d/kernel") else array
        arrays[key] = array.transpose(2, 3, 1, 0) if key.endswith("kernel") else array
    np.savez(path, **arrays)


D2_RULES = (
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    *((rf"^layer{k}\.", f"res{k + 1}.") for k in range(1, 5)),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
    (r"^fc\.", "linear."),
)


def detectron2_pkl(network, path, protocol=4, prefix=""):
    """detectron2's checkpoints of pretrained backbones: {"model": arrays by name, ...}."""
    arrays = {prefix + key: array for key, array in renamed(network, D2_RULES).items()}
    content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content, protocol=protocol))


def caffe_name(key):
    """Return the names of convolution, batch norm and scale in Caffe's ResNets for a layer of ours."""
    fixed = {"conv1": "conv1", "bn1": "_conv1", "fc": "fc1000"}
    if key in fixed:
        return fixed[key]
    stage, block, part = re.fullmatch(r"layer(\d)\.(\d)\.(.*)", key).groups()
    branch = {"downsample.0": "1", "downsample.1": "1"}.get(part) or "2" + "abc"[int(part[-1]) - 1]
    # Networks with many blocks in a stage number them (res3b1), others have letters (res2b).
    unit = "a" if block == "0" else f"b{block}" if stage == "3" else "abcdef"[int(block)]
    return f"{int(stage) + 1}{unit}_branch{branch}"


def caffe_messages():
    """Return classes of the messages of caffe.proto that hold weights, made by protobuf itself."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="caffe_weights.proto", package="caffe", syntax="proto2")
    field = descriptor_pb2.FieldDescriptorProto
    optional, repeated = field.LABEL_OPTIONAL, field.LABEL_REPEATED

    def add(message, *fields):
        descriptor = file.message_type.add(name=message)
        for name, number, label, kind, packed in fields:
            made = descriptor.field.add(name=name, number=number, label=label)
            if isinstance(kind, str):
                made.type, made.type_name = field.TYPE_MESSAGE, f".caffe.{kind}"
            else:
                made.type = kind
            if packed:
                made.options.packed = True

    dims = [
        (name, i, optional, field.TYPE_INT32, False) for i, name in enumerate(("num", "channels", "height", "width"), 1)
    ]
    add("BlobShape", ("dim", 1, repeated, field.TYPE_INT64, True))
    add("BlobProto", *dims, ("data", 5, repeated, field.TYPE_FLOAT, True), ("shape", 7, optional, "BlobShape", False))
    names = [("bottom", repeated), ("top", repeated)]
    for message, numbers, kind, blobs in (
        ("LayerParameter", (3, 4), ("name", 1, "type", 2, field.TYPE_STRING), 7),
        ("V1LayerParameter", (2, 3), ("name", 4, "type", 5, field.TYPE_INT32), 6),
    ):
        ends = [
            (name, number, label, field.TYPE_STRING, False)
            for (name, label), number in zip(names, numbers, strict=True)
        ]
        name, name_number, type_name, type_number, type_kind = kind
        add(
            message,
            (name, name_number, optional, field.TYPE_STRING, False),
            (type_name, type_number, optional, type_kind, False),
            *ends,
            ("blobs", blobs, repeated, "BlobProto", False),
        )
    add(
        "NetParameter",
        ("name", 1, optional, field.TYPE_STRING, False),
        ("layers", 2, repeated, "V1LayerParameter", False),
        ("layer", 100, repeated, "LayerParameter", False),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))


def caffemodel(network, path, factor=1.0, stem_bias=None):
    """Caffe's ResNets: Convolution, BatchNorm (sums and their factor) and Scale, which work in place."""
    net = caffe_messages()(name="ResNet")
    state = {key: tensor.numpy() for key, tensor in network.state_dict().items()}

    def add(name, kind, top, *blobs):
        layer = net.layer.add(name=name, type=kind, bottom=[top], top=[top])
        for blob in blobs:
            made = layer.blobs.add()
            made.data.extend(blob.flatten().tolist())
            made.shape.dim.extend(blob.shape)

    for key in [key.removesuffix(".weight") for key in state if key.endswith(".weight")]:
        weight, name = state[f"{key}.weight"], caffe_name(key)
        if weight.ndim == 1:
            mean, var = (state[f"{key}.running_{leaf}"] * np.float32(factor) for leaf in ("mean", "var"))
            top = name if name.startswith("_") else f"res{name}"
            add(f"bn{name}", "BatchNorm", top, mean, var, np.array([factor], "f4"))
            add(f"scale{name}", "Scale", top, weight, state[f"{key}.bias"])
        elif weight.ndim == 2:
            add(name, "InnerProduct", name, weight, state[f"{key}.bias"])
        else:
            bias = [stem_bias] if stem_bias is not None and key == "conv1" else []
            name = name if key == "conv1" else f"res{name}"
            add(name, "Convolution", "_conv1" if key == "conv1" else name, weight, *bias)
    path.write_bytes(net.SerializeToString())


KERAS_LEAVES = {"running_mean": "moving_mean", "running_var": "moving_variance"}


def keras_layers(network, rules, is_v2=False):
    """Return Keras's layers and their variables: {"conv1_conv": {"kernel": ..., "bias": ...}, ...}."""
    layers = {}
    for key, array in renamed(network, rules).items():
        layer, _, leaf = key.rpartition(".")
        is_norm = layer.endswith("bn")
        if is_v2 and leaf == "bias" and re.search(r"_[12]_conv$", layer):
            continue  # without a bias there; it is zero in ours
        names = {"weight": "gamma", "bias": "beta", **KERAS_LEAVES} if is_norm else {"weight": "kernel", "bias": "bias"}
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T if array.ndim == 2 else array
        layers.setdefault(layer, {})[names[leaf]] = array
    return layers


def keras_h5(layers, path, is_model=True, suffix=":0"):
    """Keras's HDF5 of whole models (`is_model`) and weights: a group a layer, `weight_names` in order."""
    import h5py

    with h5py.File(path, "w") as file:
        group = file.create_group("model_weights") if is_model else file
        group.attrs["layer_names"] = [name.encode() for name in ("input_1", *layers)]
        group.create_group("input_1").attrs["weight_names"] = np.array([], "S1")
        for name, variables in layers.items():
            layer = group.create_group(name)
            layer.attrs["weight_names"] = [f"{name}/{leaf}{suffix}".encode() for leaf in variables]
            for leaf, array in variables.items():
                layer[f"{name}/{leaf}{suffix}"] = array


def keras_archive(layers, path, with_names=True):
    """Keras 3: a zip file with `config.json` and `model.weights.h5`, whose layers are numbered by class."""
    import h5py

    buffer, counts, config = io.BytesIO(), {}, []
    with h5py.File(buffer, "w") as file:
        for name, variables in layers.items():
            kind = (
                "BatchNormalization" if "gamma" in variables else "Dense" if variables["kernel"].ndim == 2 else "Conv2D"
            )
            key = {"BatchNormalization": "batch_normalization", "Dense": "dense", "Conv2D": "conv2d"}[kind]
            number = counts.get(key, 0)
            counts[key] = number + 1
            group = file.create_group(f"layers/{key}_{number}/vars" if number else f"layers/{key}/vars")
            if with_names:
                group.attrs["name"] = name
            order = ("gamma", "beta", "moving_mean", "moving_variance") if "gamma" in variables else ("kernel", "bias")
            for i, leaf in enumerate(leaf for leaf in order if leaf in variables):
                group[str(i)] = variables[leaf]
            config.append({"class_name": kind, "config": {"name": name}})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", json.dumps({"class_name": "Functional", "config": {"layers": config}}))
        archive.writestr("model.weights.h5", buffer.getvalue())
