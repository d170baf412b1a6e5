"""The tutorials' procedures: Dive into Deep Learning's chapter on residual networks, and the book's chapter 8."""

from dataclasses import replace

from reslab.spec.optim import Optimizer
from reslab.spec.recipe import Recipe

_BOOK = "Stevens, Antiga and Viehmann 2020, Deep Learning with PyTorch, Sec. 8.5"
_DROPPED = "its last 16 pictures of an epoch are a batch of their own, here others each epoch are left out"

BOOK = Recipe(
    name="book-ch8",
    source=f"{_BOOK}; deep-learning-with-pytorch/dlwpt-code p1ch8",
    optimizer=Optimizer(lr=1e-2, momentum=0.0),
    length="100 epochs",
    batch=64,
    model="book_net",
    data="cifar2",
    notes=f"{_DROPPED}; the book judges without model.eval(), so with dropout and the statistics of each batch",
)
_L2 = 0.001

TUTORIALS: tuple[Recipe, ...] = (
    Recipe(
        name="d2l-fashion",
        source="Zhang et al., Dive into Deep Learning, Sec. 8.6 (ResNet), train_ch6",
        optimizer=Optimizer(lr=0.05, momentum=0.0),
        length="10 epochs",
        batch=256,
        augment="resize(96)",
        test="resize(96)",
        mean=(0.0,),
        std=(1.0,),
        model="resnet18_d2l",
        data="fashion-mnist",
        judge_train=True,
        notes="its loss 0.014 and accuracy 0.996 are averages along the last epoch, in training mode (told as "
        "train_average_loss and train_average_top1, beside train_loss and train_top1 of the finished weights), and its "
        "4,680 examples a second leave out loading (images_per_second_without_loading); its last 96 pictures of an "
        "epoch are a batch of their own, here others each epoch are left out",
    ),
    BOOK,
    replace(
        BOOK,
        name="book-ch8-res-deep",
        source=f"{_BOOK}.3, NetResDeep",
        optimizer=replace(BOOK.optimizer, lr=3e-3),
        model="book_resdeep",
    ),
    replace(
        BOOK,
        name="book-ch8-l2",
        source=f"{_BOOK}.2, training_loop_l2reg",
        l2=_L2,
        notes=f"{BOOK.notes}; the equal of book-ch8-weight-decay",
    ),
    replace(
        BOOK,
        name="book-ch8-weight-decay",
        source=f"{_BOOK}.2: a weight decay of 2 lambda",
        optimizer=replace(BOOK.optimizer, weight_decay=2 * _L2),
        notes=f"{BOOK.notes}; the equal of book-ch8-l2",
    ),
    replace(BOOK, name="book-ch8-l1", source=f"{_BOOK}.2: absolute values in place of squares", l1=_L2),
    replace(BOOK, name="book-ch8-dropout", source=f"{_BOOK}.2, NetDropout", model="book_dropout"),
    replace(BOOK, name="book-ch8-batch-norm", source=f"{_BOOK}.2, NetBatchNorm", model="book_batchnorm"),
)
