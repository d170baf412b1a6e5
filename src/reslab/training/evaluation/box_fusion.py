"""Weighted boxes fusion: the detections of several views of an image as one set."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from reslab.metrics.detection import box_overlaps, rank_by_score, to_array

IOU_THRESHOLD = 0.55
_FUSED_KEYS = ("boxes", "scores", "labels", "masks")


def mirror_boxes(output: Mapping[str, Tensor], axes: Sequence[int], size: Sequence[int]) -> dict[str, Tensor]:
    """Return the detections in the mirror image of an image of `size` (H, W): axis -1 mirrors columns, -2 rows."""
    mirrored = dict(output)
    for axis in axes:
        first, last = (0, 2) if axis == -1 else (1, 3)
        boxes = mirrored["boxes"].clone()
        boxes[:, first], boxes[:, last] = (size[axis] - mirrored["boxes"][:, k] for k in (last, first))
        mirrored["boxes"] = boxes
    if "masks" in output:
        mirrored["masks"] = output["masks"].flip(*axes)
    return mirrored


def fuse_boxes(outputs: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the weighted boxes fusion of the detections of N views (Solovyev et al. 2021, arXiv:1910.13302, Sec. 3).

    By falling score, each box joins the cluster of its class whose fused box has the highest IoU with it, if that is
    over 0.55, or starts one. The fused box is the mean of the T boxes of a cluster, weighted by their scores, masks
    likewise, and its score their mean score times min(T, N) / N. Each output has `boxes` (K, 4), `scores` (K,),
    `labels` (K,) and, of a detector with masks, `masks` (K, 1, H, W); the result has the same, by falling score.
    """
    names = [name for name in _FUSED_KEYS if name in outputs[0]]
    joined = {name: torch.cat([output[name] for output in outputs]) for name in names}
    boxes, scores = to_array(joined["boxes"]), to_array(joined["scores"])
    labels = joined["labels"].cpu().numpy()
    cluster_of, fused = _cluster(boxes, scores, labels)
    num_clusters = len(fused)
    sizes = np.bincount(cluster_of, minlength=num_clusters)
    total_scores = np.bincount(cluster_of, weights=scores, minlength=num_clusters)
    fused_scores = total_scores / np.maximum(sizes, 1) * np.minimum(sizes, len(outputs)) / len(outputs)
    order = rank_by_score(fused_scores)
    first_members = np.unique(cluster_of, return_index=True)[1]
    result = {
        "boxes": torch.from_numpy(fused[order]).to(joined["boxes"]),
        "scores": torch.from_numpy(fused_scores[order]).to(joined["scores"]),
        "labels": joined["labels"][torch.from_numpy(first_members[order]).to(joined["labels"].device)],
    }
    if "masks" in joined:
        masks = joined["masks"]
        weights = torch.from_numpy(scores / np.maximum(total_scores, 1e-12)[cluster_of]).to(masks)
        sums = masks.new_zeros(num_clusters, *masks.shape[1:])
        sums.index_add_(0, torch.from_numpy(cluster_of).to(masks.device), masks * weights.view(-1, 1, 1, 1))
        result["masks"] = sums[torch.from_numpy(order).to(masks.device)]
    return result


def _cluster(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the cluster of each box (K,) and the fused box of each cluster (C, 4)."""
    cluster_of = np.zeros(len(boxes), dtype=np.int64)
    fused, weighted_sums = np.zeros_like(boxes), np.zeros_like(boxes)
    cluster_scores, cluster_labels = np.zeros(len(boxes)), np.zeros(len(boxes), dtype=np.int64)
    num_clusters = 0
    for i in rank_by_score(scores):
        overlaps = box_overlaps(boxes[i : i + 1], fused[:num_clusters])[0]
        overlaps[cluster_labels[:num_clusters] != labels[i]] = 0.0
        cluster = int(overlaps.argmax()) if num_clusters else 0
        if num_clusters == 0 or overlaps[cluster] <= IOU_THRESHOLD:
            cluster, num_clusters = num_clusters, num_clusters + 1
            cluster_labels[cluster] = labels[i]
        cluster_of[i] = cluster
        weighted_sums[cluster] += scores[i] * boxes[i]
        cluster_scores[cluster] += scores[i]
        fused[cluster] = weighted_sums[cluster] / cluster_scores[cluster] if cluster_scores[cluster] > 0 else boxes[i]
    return cluster_of, fused[:num_clusters]
