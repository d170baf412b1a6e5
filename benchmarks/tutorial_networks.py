"""The networks as the tutorials and papers print them, in plain PyTorch without reslab."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Residual(nn.Module):
    """Dive into Deep Learning, Sec. 8.6."""

    def __init__(self, in_channels: int, num_channels: int, use_1x1conv: bool = False, strides: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, num_channels, kernel_size=3, padding=1, stride=strides)
        self.conv2 = nn.Conv2d(num_channels, num_channels, kernel_size=3, padding=1)
        self.conv3 = nn.Conv2d(in_channels, num_channels, kernel_size=1, stride=strides) if use_1x1conv else None
        self.bn1, self.bn2 = nn.BatchNorm2d(num_channels), nn.BatchNorm2d(num_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.conv3 is not None:
            x = self.conv3(x)
        y += x
        return functional.relu(y)


def d2l_resnet18(num_classes: int = 10) -> nn.Module:
    """ResNet-18 of Dive into Deep Learning, Sec. 8.6, for grayscale images."""
    layers: list[nn.Module] = [
        nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3), nn.BatchNorm2d(64), nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
    ]  # fmt: skip
    in_channels = 64
    for stage, width in enumerate((64, 128, 256, 512)):
        layers.append(Residual(in_channels, width, stage > 0, 2 if stage else 1))
        layers.append(Residual(width, width))
        in_channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(512, num_classes))


class BasicBlock(nn.Module):
    """He et al. 2015, Sec. 4.2, option A, as in common CIFAR scripts."""

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.added_channels = planes - in_planes

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.added_channels:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added_channels // 2, self.added_channels // 2))
        return functional.relu(out + x)


def cifar_resnet20(num_classes: int = 10) -> nn.Module:
    """ResNet-20 for 32x32 color images."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    in_channels = 16
    for width in (16, 32, 64):
        for block in range(3):
            layers.append(BasicBlock(in_channels, width, 2 if block == 0 and width > 16 else 1))
            in_channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes))


def plain_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """Take a step as in the tutorials: float32, N C H W."""
    optimizer.zero_grad()
    loss = functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
