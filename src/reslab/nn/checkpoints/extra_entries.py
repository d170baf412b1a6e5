"""Entries of a file that are no part of its network: of losses and metrics, and of a detector around a backbone."""

import re
from collections.abc import Collection, Mapping

from reslab.nn.checkpoints.match_keys import OPTIONAL_SUFFIX, CheckpointEntry

_NO_NETWORK = re.compile(
    r"(?:^|\.)(?:\w+_)?(?:loss(?:es|_fn|_func|_module)?|criterion|criteria|metrics?|acc(?:uracy)?|confmat|auroc)(?:_\w+)?(?:\.|$)"
)
_DETECTOR = re.compile(
    r"^(?:fpn_\w+|proposal_generator|roi_heads|sem_seg_head|top_block|neck|bbox_head|rpn_head|data_preprocessor)\."
    r"|^pixel_(?:mean|std)$"
)
_MAX_NAMES = 4


def leave_out_extra(
    entries: Mapping[str, CheckpointEntry], names: Collection[str], allow_extra: bool
) -> tuple[dict[str, CheckpointEntry], list[str]]:
    """Return the entries without those that belong to no network, and messages that name them.

    `names`: the network's keys, which always stay. With `allow_extra`, every entry that is not among them is left out.
    """
    extra = [name for name in entries if name not in names and not name.endswith(OPTIONAL_SUFFIX)]
    groups = {
        "of a loss or metric": [name for name in extra if _NO_NETWORK.search(entries[name].file_key)],
        "of a detector": [name for name in extra if _DETECTOR.search(name)],
    }
    known = {name for group in groups.values() for name in group}
    groups["that the network lacks, as allowed"] = [name for name in extra if allow_extra and name not in known]
    messages = []
    for kind, group in groups.items():
        if group:
            keys = ", ".join(entries[name].file_key for name in group[:_MAX_NAMES])
            more = f" and {len(group) - _MAX_NAMES} more" if len(group) > _MAX_NAMES else ""
            messages.append(f"left out {len(group)} entries {kind}: {keys}{more}")
    left_out = {name for group in groups.values() for name in group}
    return {name: entry for name, entry in entries.items() if name not in left_out}, messages
