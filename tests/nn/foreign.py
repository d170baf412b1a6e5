"""Small transcriptions of networks of other repositories and tutorials, with their names of the weights."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv3(inner: int, out: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inner, out, 3, stride, 1, bias=bias)


class Lambda(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class CifarUnit(nn.Module):
    """akamaster's (option A, half of the zeros before) and kuangliu's block (a projection)."""

    def __init__(self, inner: int, out: int, stride: int, option: str) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3(inner, out, stride), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = conv3(out, out), nn.BatchNorm2d(out)
        self.shortcut = nn.Sequential()
        if option == "A" and (stride != 1 or inner != out):
            self.shortcut = Lambda(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, out // 4, out // 4), "constant", 0))
        elif stride != 1 or inner != out:
            self.shortcut = nn.Sequential(nn.Conv2d(inner, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


class KuangliuBottleneck(nn.Module):
    def __init__(self, inner: int, planes: int, stride: int, option: str = "B") -> None:
        super().__init__()
        out = 4 * planes
        self.conv1, self.bn1 = nn.Conv2d(inner, planes, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = conv3(planes, planes, stride), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = nn.Conv2d(planes, out, 1, bias=False), nn.BatchNorm2d(out)
        self.shortcut = nn.Sequential()
        if stride != 1 or inner != out:
            self.shortcut = nn.Sequential(nn.Conv2d(inner, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(out)))))
        return F.relu(out + self.shortcut(x))


class CifarNet(nn.Module):
    """The frame of akamaster's and kuangliu's networks: conv1, bn1, layer1..., linear."""

    def __init__(self, unit: type[nn.Module], option: str, widths: tuple[int, ...], depth: int = 2) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3(3, widths[0]), nn.BatchNorm2d(widths[0])
        channels, expansion = widths[0], 4 if unit is KuangliuBottleneck else 1
        self.num_stages = len(widths)
        for stage, width in enumerate(widths, 1):
            units = []
            for i in range(depth):
                units.append(unit(channels, width, 2 if i == 0 and stage > 1 else 1, option))
                channels = width * expansion
            setattr(self, f"layer{stage}", nn.Sequential(*units))
        self.linear = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in range(1, self.num_stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        return self.linear(x.mean((2, 3)))


class WeiaicunzaiUnit(nn.Module):
    def __init__(self, inner: int, planes: int, stride: int) -> None:
        super().__init__()
        out = 4 * planes
        self.residual_function = nn.Sequential(
            *(nn.Conv2d(inner, planes, 1, bias=False), nn.BatchNorm2d(planes), nn.ReLU()),
            *(conv3(planes, planes, stride), nn.BatchNorm2d(planes), nn.ReLU()),
            *(nn.Conv2d(planes, out, 1, bias=False), nn.BatchNorm2d(out)),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or inner != out:
            self.shortcut = nn.Sequential(nn.Conv2d(inner, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual_function(x) + self.shortcut(x))


class Weiaicunzai(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(conv3(3, 8), nn.BatchNorm2d(8), nn.ReLU())
        self.conv2_x = nn.Sequential(WeiaicunzaiUnit(8, 8, 1), WeiaicunzaiUnit(32, 8, 1))
        self.conv3_x = nn.Sequential(WeiaicunzaiUnit(32, 16, 2), WeiaicunzaiUnit(64, 16, 1))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv3_x(self.conv2_x(self.conv1(x))).mean((2, 3)))


class XternalzUnit(nn.Module):
    def __init__(self, inner: int, out: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inner), conv3(inner, out, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(out), conv3(out, out)
        self.convShortcut = None if inner == out else nn.Conv2d(inner, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        read = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(read))))
        return (x if self.convShortcut is None else self.convShortcut(read)) + out


class Xternalz(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv3(3, 16)
        channels = 16
        for stage, width in enumerate((16, 32, 64), 1):
            units = [XternalzUnit(channels, width, min(stage, 2)), XternalzUnit(width, width, 1)]
            block, channels = nn.Module(), width
            block.layer = nn.Sequential(*units)
            setattr(self, f"block{stage}", block)
        self.bn1, self.fc = nn.BatchNorm2d(64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for block in (self.block1, self.block2, self.block3):
            x = block.layer(x)
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))


class D2lResidual(nn.Module):
    """Dive into Deep Learning, Sec. 8.6.1."""

    def __init__(self, inner: int, out: int, use_1x1conv: bool = False, strides: int = 1) -> None:
        super().__init__()
        self.conv1 = conv3(inner, out, strides, bias=True)
        self.conv2 = conv3(out, out, bias=True)
        self.conv3 = nn.Conv2d(inner, out, 1, strides) if use_1x1conv else None
        self.bn1, self.bn2 = nn.BatchNorm2d(out), nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.conv3 is None else self.conv3(x)))


def d2l_block(inner: int, out: int, first: bool = False, num_units: int = 2) -> nn.Sequential:
    units = [D2lResidual(inner, out, not first, 1 if first else 2)]
    return nn.Sequential(*units, *(D2lResidual(out, out) for _ in range(num_units - 1)))


def d2l_stem() -> list[nn.Module]:
    return [nn.Conv2d(1, 64, 7, 2, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]


def d2l_blocks() -> list[nn.Sequential]:
    return [d2l_block(64, 64, first=True), d2l_block(64, 128), d2l_block(128, 256), d2l_block(256, 512)]


def d2l_sequential() -> nn.Module:
    """The layout of the chapter in functions: nn.Sequential(b1, ..., b5, pool, flatten, linear)."""
    head = [nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(512, 10)]
    return nn.Sequential(nn.Sequential(*d2l_stem()), *d2l_blocks(), *head)


class D2lClass(nn.Module):
    """The layout of the chapter in classes: d2l.ResNet, its modules inside `net`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Sequential(*d2l_stem()))
        for i, block in enumerate(d2l_blocks()):
            self.net.add_module(f"b{i + 2}", block)
        self.net.add_module("last", nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(512, 10)))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def d2l_named_blocks() -> nn.Module:
    """The layout of the first edition: conv and norm loose, resnet_block1 ..., fc."""
    net = nn.Sequential(*d2l_stem())
    for i, block in enumerate(d2l_blocks(), 1):
        net.add_module(f"resnet_block{i}", block)
    net.add_module("global_avg_pool", nn.AdaptiveAvgPool2d((1, 1)))
    net.add_module("fc", nn.Sequential(nn.Flatten(), nn.Linear(512, 10)))
    return net


class BookBlock(nn.Module):
    """Deep Learning with PyTorch, Sec. 8.5.3, ResBlock."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.batch_norm = conv3(channels, channels), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.batch_norm(self.conv(x))) + x


class BookResDeep(nn.Module):
    def __init__(self, num_blocks: int, shared: bool) -> None:
        super().__init__()
        self.conv1 = conv3(3, 32, bias=True)
        blocks = num_blocks * [BookBlock(32)] if shared else [BookBlock(32) for _ in range(num_blocks)]
        self.resblocks = nn.Sequential(*blocks)
        self.fc1, self.fc2 = nn.Linear(8 * 8 * 32, 32), nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        out = self.resblocks(F.max_pool2d(torch.relu(self.conv1(x)), 2))
        return self.fc2(torch.relu(self.fc1(F.max_pool2d(out, 2).flatten(1))))


class BookNet(nn.Module):
    """Its two-layer networks: NetWidth, NetDropout (the same weights), NetBatchNorm, and with a third layer NetRes."""

    def __init__(self, norm: bool = False, res: bool = False) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv3(3, 32, bias=True), conv3(32, 16, bias=True)
        if norm:
            self.conv1_batchnorm, self.conv2_batchnorm = nn.BatchNorm2d(32), nn.BatchNorm2d(16)
        if res:
            self.conv3 = conv3(16, 16, bias=True)
        self.norm, self.res = norm, res
        self.fc1, self.fc2 = nn.Linear((4 * 4 if res else 8 * 8) * 16, 32), nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        act = torch.relu if self.res else torch.tanh
        first, second = self.conv1(x), self.conv2
        out = F.max_pool2d(act(self.conv1_batchnorm(first) if self.norm else first), 2)
        out = second(out)
        out = F.max_pool2d(act(self.conv2_batchnorm(out) if self.norm else out), 2)
        if self.res:
            out = F.max_pool2d(torch.relu(self.conv3(out)) + out, 2)
        return self.fc2(act(self.fc1(out.flatten(1))))
