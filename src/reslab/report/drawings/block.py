"""The drawing of one residual block: the branch as a column, the shortcut beside it, and the merge."""

from collections.abc import Sequence
from dataclasses import dataclass

from reslab.report.drawings.canvas import Circle, Drawing, Line, Rect, Style, Text, text_width
from reslab.report.drawings.labels import Label, combination_label, factor_labels, layer_label, modifier_label
from reslab.report.format import format_shape
from reslab.spec.arch import Arch
from reslab.spec.shapes import BlockLayers, Layer, Shape
from reslab.spec.shortcut import MERGE_OPS

NAME_SIZE, DETAIL_SIZE = 13, 11
_NAME_HEIGHT, _DETAIL_HEIGHT = 26, 15
_ARROW, _COLUMN_GAP, _MIN_WIDTH, _PADDING = 34, 34, 132, 14
_MERGE_RADIUS, _TIMES_RADIUS = 11, 9
_GATE_ROW, _GATE_GAP = 52, 36


@dataclass(frozen=True)
class Group:
    """Boxes that touch, and the shape of what leaves the last one."""

    labels: tuple[Label, ...]
    out_shape: Shape

    @property
    def height(self) -> float:
        """The height of all boxes."""
        return sum(label_height(label) for label in self.labels)

    @property
    def width(self) -> float:
        """The width that the widest text needs."""
        return max(label_width(label) for label in self.labels)


def label_height(label: Label) -> float:
    """Return the height of the box of a label."""
    return _NAME_HEIGHT + _DETAIL_HEIGHT * len(label.details) + (2 if label.details else 0)


def label_width(label: Label) -> float:
    """Return the width of the box of a label, not below that of most."""
    texts = [text_width(label.name, NAME_SIZE), *(text_width(line, DETAIL_SIZE) for line in label.details)]
    return max(max(texts) + 2 * _PADDING, _MIN_WIDTH)


def draw_block(block: BlockLayers, arch: Arch, title: str, subtitles: Sequence[str] = ()) -> Drawing:
    """Return the drawing of a block, with the shapes channels × height × width beside its arrows."""
    drawing = Drawing(f"{arch.name}, {block.spec.name}", describe_block(block, arch))
    _BlockPainter(block, arch, drawing).draw(title, subtitles)
    return drawing


def describe_block(block: BlockLayers, arch: Arch) -> str:
    """Return a block in words, for those who cannot see its drawing."""

    def describe_layers(layers: Sequence[Layer]) -> str:
        return ", ".join(layer_label(layer, arch, block.spec).name for layer in layers)

    parts = [f"Input {format_shape(block.in_shape)}."]
    parts += [f"Ahead of the fork: {describe_layers(block.pre)}."] if block.pre else []
    branch = f"{block.spec.branches} parallel branches, each" if block.spec.branches > 1 else "Branch"
    parts.append(f"{branch}: {describe_layers(block.branch)}.")
    if block.shortcut is None:
        parts.append("No shortcut.")
    else:
        parts.append(f"Shortcut: {describe_layers(block.shortcut) or 'identity'}.")
        parts.append(f"Merge: {' '.join(str(op) for op in block.spec.merge.ops)}.")
    parts += [f"After the merge: {describe_layers(block.post)}."] if block.post else []
    return " ".join([*parts, f"Output {format_shape(block.out_shape)}."])


def group_layers(layers: Sequence[Layer], arch: Arch, block: BlockLayers | None = None) -> list[Group]:
    """Return the layers in groups with one change of shape each.

    A group begins with its convolution or pool, or ends with it where the layers begin with another operation; those
    after the last one belong to it.
    """
    groups: list[list[Layer]] = []
    begins_with_change = bool(layers) and changes_shape(layers[0])
    for i, layer in enumerate(layers):
        is_full = bool(groups) and any(changes_shape(earlier) for earlier in groups[-1])
        begins_next = changes_shape(layer) or (not begins_with_change and any(map(changes_shape, layers[i:])))
        if not groups or (is_full and begins_next):
            groups.append([])
        groups[-1].append(layer)
    spec = block.spec if block else None
    return [Group(tuple(layer_label(layer, arch, spec) for layer in group), group[-1].out_shape) for group in groups]


def changes_shape(layer: Layer) -> bool:
    """Return whether a layer is a convolution, or gives another shape than it reads."""
    return layer.conv is not None or layer.in_shape != layer.out_shape


class _BlockPainter:
    """The columns of a block and what is drawn in them; `x` of the branch is 0."""

    def __init__(self, block: BlockLayers, arch: Arch, drawing: Drawing) -> None:
        self.block, self.drawing = block, drawing
        merge, spec = block.spec.merge, block.spec
        shortcut_factor, branch_factor = factor_labels(spec)
        self.pre = group_layers(block.pre, arch, block)
        self.post = group_layers(block.post, arch, block)
        branch_labels = [modifier_label(op, spec) for op in merge.branch_modifiers]
        shortcut_labels = [modifier_label(op, spec) for op in merge.shortcut_modifiers]
        has_shortcut = block.shortcut is not None
        self.branch = group_layers(block.branch, arch, block)
        end_labels = [combination_label(spec), *([*branch_labels, branch_factor] if has_shortcut else [])]
        self.branch_end = _group_of(end_labels, block.out_shape)
        self.shortcut = group_layers(block.shortcut or (), arch, block) + _group_of(
            [*shortcut_labels, shortcut_factor] if has_shortcut else [], block.out_shape
        )
        self.has_gate = has_shortcut and spec.merge.op.name in _GATES
        self.width = max(group.width for group in (*self.pre, *self.branch, *self.branch_end, *self.post))
        gate_width = _GATE_WIDTH + _GATE_GAP if self.has_gate else 0
        shortcut_width = max([group.width for group in self.shortcut] or [_GATE_GAP if self.has_gate else 0])
        self.gate_x = self.width / 2 + _COLUMN_GAP + _GATE_WIDTH / 2
        self.shortcut_x = self.width / 2 + gate_width + _COLUMN_GAP + shortcut_width / 2

    def draw(self, title: str, subtitles: Sequence[str]) -> None:
        """Draw everything from the title down."""
        y = self._heading(title, subtitles)
        for group in self.pre:
            y = self._arrow(0, y, _ARROW, self.block.in_shape if group is self.pre[0] else None)
            y = self._boxes(group, 0, y, self.width)
        y = self._fork_and_branch(y)
        for group in self.post:
            y = self._arrow(0, y, _ARROW, self.block.out_shape if group is self.post[0] else None)
            y = self._boxes(group, 0, y, self.width)
        self._arrow(0, y, _ARROW, self.block.out_shape if not self.post else self.post[-1].out_shape)

    def _heading(self, title: str, subtitles: Sequence[str]) -> float:
        left, y = -self.width / 2, 0.0
        self.drawing.add(Text(left, y, title, 15, "start", Style.INK, is_bold=True))
        for line in subtitles:
            y += 17
            self.drawing.add(Text(left, y, line, DETAIL_SIZE + 1, "start", Style.MUTED))
        return y + 14

    def _fork_and_branch(self, y: float) -> float:
        """Draw both paths from the fork to the merge; return where the merge ends."""
        if self.block.shortcut is None:
            y = self._arrow(0, y, _ARROW, self.block.fork_shape)
            if self.block.spec.branches == 1:
                return self._column(self.branch, 0, y, self.width, self.block.fork_shape)
            return self._branches(y - _ARROW, y)
        fork_y = y + 16
        self.drawing.add(Line(((0, y), (0, fork_y))), Circle(0, fork_y, 2.5, is_dot=True))
        first_y = self._arrow(0, fork_y, _ARROW, self.block.fork_shape)
        branch_end = first_y + _column_height([*self.branch, *self.branch_end])
        shortcut_end = fork_y + 2 * _ARROW + _column_height(self.shortcut)
        merge_y = max(branch_end + _ARROW, shortcut_end) + _MERGE_RADIUS + (_GATE_ROW if self.has_gate else 0)
        branch_end = self._branches(fork_y, first_y)
        self._shortcut(fork_y, merge_y)
        return self._merge(branch_end, merge_y, fork_y)

    def _branches(self, fork_y: float, y: float) -> float:
        """Draw all branches from `y` down, the first at 0, the others to its left; return where the first ends."""
        spec, shape = self.block.spec, self.block.fork_shape
        for number in range(1, spec.branches):
            x = -number * (self.width + _COLUMN_GAP)
            self.drawing.add(Line(((0, fork_y), (x, fork_y), (x, y)), has_arrow=True))
            end = self._column(self.branch, x, y, self.width, shape)
            box_y = end + _ARROW + _NAME_HEIGHT / 2
            self.drawing.add(Line(((x, end), (x, box_y), (-self.width / 2, box_y)), has_arrow=number == 1))
        return self._column([*self.branch, *self.branch_end], 0, y, self.width, shape)

    def _column(self, groups: Sequence[Group], x: float, y: float, width: float, shape: Shape) -> float:
        """Draw groups from `y` down, with arrows between them; return where the last one ends."""
        for i, group in enumerate(groups):
            if i:
                y = self._arrow(x, y, _ARROW, shape)
            y = self._boxes(group, x, y, width)
            shape = group.out_shape
        return y

    def _shortcut(self, fork_y: float, merge_y: float) -> None:
        x, groups, style = self.shortcut_x, self.shortcut, Style.SHORTCUT
        end = (_MERGE_RADIUS, merge_y)
        if not groups:
            self.drawing.add(Line(((0, fork_y), (x, fork_y), (x, merge_y), end), style, has_arrow=True))
            middle = (fork_y + merge_y) / 2
            self.drawing.add(Text(x + 10, middle - 3, "identity", NAME_SIZE, "start", Style.INK))
            shape = format_shape(self.block.fork_shape)
            self.drawing.add(Text(x + 10, middle + 13, shape, DETAIL_SIZE, "start", Style.MUTED))
            return
        width, height = max(group.width for group in groups), _column_height(groups)
        top = max(fork_y + _ARROW, (fork_y + merge_y - height) / 2 - (_GATE_ROW / 2 if self.has_gate else 0))
        self.drawing.add(Line(((0, fork_y), (x, fork_y), (x, top)), style, has_arrow=True))
        self._shape_text(x, (max(fork_y, top - _ARROW) + top) / 2, self.block.fork_shape, "start")
        bottom = self._column(groups, x, top, width, self.block.fork_shape)
        self.drawing.add(Line(((x, bottom), (x, merge_y), end), style, has_arrow=True))
        self._shape_text(x, bottom + _ARROW / 2, groups[-1].out_shape, "start")

    def _merge(self, branch_end: float, merge_y: float, fork_y: float) -> float:
        op, shape = self.block.spec.merge.op, self.block.out_shape
        top = merge_y - _MERGE_RADIUS
        if self.has_gate:
            gate_y = merge_y - _MERGE_RADIUS - _GATE_ROW / 2
            self._gate(op.name, gate_y, fork_y)
            if op.name == "gate":
                self._times(0, gate_y)
                self._arrow(0, branch_end, gate_y - _TIMES_RADIUS - branch_end, shape)
                self._arrow(0, gate_y + _TIMES_RADIUS, top - gate_y - _TIMES_RADIUS, None)
            else:
                self._arrow(0, branch_end, top - branch_end, shape)
        else:
            self._arrow(0, branch_end, top - branch_end, shape)
        return self._merge_node(op.name, merge_y)

    def _merge_node(self, name: str, y: float) -> float:
        if name in _SUMS:
            self.drawing.add(Circle(0, y, _MERGE_RADIUS, Style.SHORTCUT))
            self.drawing.add(Line(((-5, y), (5, y)), Style.SHORTCUT), Line(((0, y - 5), (0, y + 5)), Style.SHORTCUT))
            return y + _MERGE_RADIUS
        width = text_width(name, NAME_SIZE) + 2 * _PADDING
        box = Rect(-width / 2, y - _MERGE_RADIUS, width, 2 * _MERGE_RADIUS, Style.SHORTCUT, _MERGE_RADIUS)
        self.drawing.add(box, Text(0, y + 4.5, name, NAME_SIZE))
        return y + _MERGE_RADIUS

    def _gate(self, name: str, y: float, fork_y: float) -> None:
        """Draw the gate between both paths, which reads what they read, and its products."""
        x, half = self.gate_x, _GATE_WIDTH / 2
        self.drawing.add(Line(((0, fork_y), (x, fork_y), (x, y - 20)), Style.SHORTCUT, has_arrow=True))
        self.drawing.add(Rect(x - half, y - 20, _GATE_WIDTH, 40, Style.SHORTCUT, 5))
        self.drawing.add(Text(x, y - 3, "g = sigmoid", NAME_SIZE), Text(x, y + 12, "of a 1×1 conv", DETAIL_SIZE))
        self._times(self.shortcut_x, y)
        right = self.shortcut_x - _TIMES_RADIUS
        self.drawing.add(Line(((x + half, y), (right, y)), Style.SHORTCUT, has_arrow=True))
        self.drawing.add(Text((x + half + right) / 2, y - 6, "1 − g", DETAIL_SIZE, "middle", Style.MUTED))
        if name == "gate":
            self.drawing.add(Line(((x - half, y), (_TIMES_RADIUS, y)), Style.SHORTCUT, has_arrow=True))
            self.drawing.add(Text((x - half) / 2, y - 6, "g", DETAIL_SIZE, "middle", Style.MUTED))

    def _times(self, x: float, y: float) -> None:
        self.drawing.add(Circle(x, y, _TIMES_RADIUS, Style.SHORTCUT))
        for sign in (-1, 1):
            self.drawing.add(Line(((x - 3.5, y - 3.5 * sign), (x + 3.5, y + 3.5 * sign)), Style.SHORTCUT))

    def _arrow(self, x: float, y: float, length: float, shape: Shape | None) -> float:
        self.drawing.add(Line(((x, y), (x, y + length)), has_arrow=True))
        if shape is not None:
            self._shape_text(x, y + (length - 6) / 2, shape, "end")
        return y + length

    def _shape_text(self, x: float, y: float, shape: Shape, anchor: str) -> None:
        offset = 9 if anchor == "start" else -9
        self.drawing.add(Text(x + offset, y + 4, format_shape(shape), DETAIL_SIZE, anchor, Style.MUTED))

    def _boxes(self, group: Group, x: float, y: float, width: float) -> float:
        draw_boxes(self.drawing, group.labels, x, y, width)
        return y + group.height


def draw_boxes(drawing: Drawing, labels: Sequence[Label], x: float, y: float, width: float) -> None:
    """Draw labels in boxes that touch, from `y` down around `x`."""
    for label in labels:
        height = label_height(label)
        drawing.add(Rect(x - width / 2, y, width, height, label.style, 3))
        drawing.add(Text(x, y + 17.5, label.name, NAME_SIZE))
        for i, line in enumerate(label.details):
            drawing.add(Text(x, y + 32.5 + _DETAIL_HEIGHT * i, line, DETAIL_SIZE, "middle", Style.MUTED))
        y += height


def _column_height(groups: Sequence[Group]) -> float:
    return sum(group.height for group in groups) + _ARROW * max(len(groups) - 1, 0)


def _group_of(labels: Sequence[Label | None], shape: Shape) -> list[Group]:
    present = tuple(label for label in labels if label is not None)
    return [Group(present, shape)] if present else []


# Merges that end in a sum, and those whose paths are multiplied by a gate first.
_GATES = ("gate", "shortcut-gate")
_SUMS = ("add", "scale", *_GATES)
_GATE_WIDTH = 96
assert set(_SUMS) <= set(MERGE_OPS)
