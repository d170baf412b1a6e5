"""Recipes of tutorials: Dive into Deep Learning (residual networks) and Deep Learning with PyTorch (chapter 8)."""

from dataclasses import replace

from reslab.spec.optim import OptimizerConfig
from reslab.spec.recipe import NormalizeConfig, Recipe

_REFERENCE = "Stevens, Antiga and Viehmann 2020, Deep Learning with PyTorch, Sec. 8.5"
_DROP_LAST_NOTE = (
    "in the book the last 16 images of an epoch are a batch of their own; here 16 others are dropped each epoch"
)

STEVENS2020_CH8 = Recipe(
    name="book-ch8",
    reference=f"{_REFERENCE}; deep-learning-with-pytorch/dlwpt-code p1ch8",
    optimizer=OptimizerConfig(lr=1e-2, momentum=0.0),
    duration="100 epochs",
    batch_size=64,
    model="book_net",
    data="cifar2",
    notes=f"{_DROP_LAST_NOTE}; the book evaluates without model.eval(), so with dropout and batch statistics",
)
_L2 = 0.001

TUTORIALS: tuple[Recipe, ...] = (
    Recipe(
        name="d2l-fashion",
        reference="Zhang et al., Dive into Deep Learning, Sec. 8.6 (ResNet), train_ch6",
        optimizer=OptimizerConfig(lr=0.05, momentum=0.0),
        duration="10 epochs",
        batch_size=256,
        train_transform="resize(96)",
        eval_transform="resize(96)",
        normalize=NormalizeConfig(mean=(0.0,), std=(1.0,)),
        model="resnet18_d2l",
        data="fashion-mnist",
        eval_train=True,
        notes="its loss 0.014 and accuracy 0.996 are running averages over the last epoch in training mode "
        "(train_loss_running and train_top1_running, beside train_loss and train_top1 of the final weights), and its "
        "4,680 examples a second exclude data loading (compute_images_per_second); there the last 96 images of an "
        "epoch are a batch of their own, here 96 others are dropped each epoch",
    ),
    STEVENS2020_CH8,
    replace(
        STEVENS2020_CH8,
        name="book-ch8-res-deep",
        reference=f"{_REFERENCE}.3, NetResDeep",
        optimizer=replace(STEVENS2020_CH8.optimizer, lr=3e-3),
        model="book_resdeep",
    ),
    replace(
        STEVENS2020_CH8,
        name="book-ch8-l2",
        reference=f"{_REFERENCE}.2, training_loop_l2reg",
        l2=_L2,
        notes=f"{STEVENS2020_CH8.notes}; equal to book-ch8-weight-decay",
    ),
    replace(
        STEVENS2020_CH8,
        name="book-ch8-weight-decay",
        reference=f"{_REFERENCE}.2: a weight decay of 2 lambda",
        optimizer=replace(STEVENS2020_CH8.optimizer, weight_decay=2 * _L2),
        notes=f"{STEVENS2020_CH8.notes}; equal to book-ch8-l2",
    ),
    replace(
        STEVENS2020_CH8, name="book-ch8-l1", reference=f"{_REFERENCE}.2: absolute values in place of squares", l1=_L2
    ),
    replace(STEVENS2020_CH8, name="book-ch8-dropout", reference=f"{_REFERENCE}.2, NetDropout", model="book_dropout"),
    replace(
        STEVENS2020_CH8, name="book-ch8-batch-norm", reference=f"{_REFERENCE}.2, NetBatchNorm", model="book_batchnorm"
    ),
)
