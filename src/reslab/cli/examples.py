"""The examples at the end of each command's help. A test parses every one of them."""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "demo": (
        "reslab demo",
        "reslab demo --model resnet20_cifar --epochs 5",
    ),
    "train": (
        "reslab train",
        "reslab train photos/ --recipe finetune --model resnet18 -o runs/photos",
        "reslab train --data cifar10 --model resnet56_cifar --lr 0.2 --seeds 5",
    ),
    "eval": (
        "reslab eval runs/photos --per-class --html eval.html",
        "reslab eval runs/a runs/b --split test --tta flip",
        "reslab eval --model resnet50 --pretrained true --data imagenet --data-dir DIR",
    ),
    "lr-find": (
        "reslab lr-find --data cifar10 --model resnet20_cifar",
        "reslab lr-find photos/ --min-lr 1e-4 --max-lr 1 --num-steps 50",
    ),
    "predict": (
        "reslab predict runs/photos cat.jpg dog.jpg",
        "reslab predict runs/photos images/ -o predictions.csv --embeddings",
        "reslab predict runs/photos cat.jpg --grad-cam heatmaps/ --json",
    ),
    "export": (
        "reslab export runs/photos --to onnx",
        "reslab export runs/photos --to openvino --precision bf16 -o model/",
    ),
    "serve": (
        "reslab serve runs/photos",
        "reslab serve runs/a runs/b --host 0.0.0.0 --token SECRET",
    ),
    "bench": (
        "reslab bench resnet18_d2l --input 1x96x96 -b 64",
        "reslab bench runs/photos --task predict --backend torch,onnxruntime",
    ),
    "summary": (
        "reslab summary resnet56_cifar",
        "reslab summary resnet50 --set model.order=full-preact --input 3x160x160",
    ),
    "analyze": (
        "reslab analyze",
        "reslab analyze gradients resnet56_cifar plain56_cifar --html gradients.html",
        "reslab analyze lesion runs/photos --weights all --num-images 256",
    ),
    "study": (
        "reslab study he2015/degradation --dry-run",
        "reslab study he2015/degradation --scale short --jobs 2",
    ),
    "models": (
        "reslab models",
        "reslab models 'resnet*_cifar' --json",
    ),
    "recipes": (
        "reslab recipes",
        "reslab recipes he2015-cifar",
    ),
    "transforms": (
        "reslab transforms",
        "reslab transforms random-resized-crop",
        "reslab transforms --json",
    ),
    "studies": (
        "reslab studies",
        "reslab studies he2016 --json",
    ),
    "runs": (
        "reslab runs --group --sort -top1 --filter data=cifar10",
        "reslab runs runs/a runs/b --html compare.html",
    ),
    "data check": (
        "reslab data check photos/",
        "reslab data check cells.csv --task regression --label-column red,white",
        "reslab data check photos/ --html check.html --train-transform 'crop(224) flip'",
    ),
    "doctor": (
        "reslab doctor",
        "reslab doctor --json",
    ),
}


def help_epilog(command: str) -> str:
    """Return the examples of a command as the last paragraph of its help."""
    # Typer joins the lines of a paragraph, so each example is a paragraph of its own.
    return "\n\n".join(["Examples:", *(f"  {example}" for example in EXAMPLES[command])])
