#!/bin/bash
# Benchmarks on one GPU in at most nine minutes: see "On a GPU" in benchmarks/README.md.
#
#     benchmarks/gpu.sh --data FOLDER_OF_CIFAR10_SHARDS --bccd FOLDER_OF_BCCD --output FOLDER
#     benchmarks/gpu.sh --small          every part in two minutes on a CPU, with tiny settings
#
# Nothing needs to be installed: the sources of this copy are used. PYTHON names the interpreter (default: python3),
# WHEELS a folder of wheels for it that are used in place of what is installed, such as a newer filelock.
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
unpacked=$(mktemp -d)
trap 'rm -rf "$unpacked"' EXIT
for wheel in "${WHEELS:-/nonexistent}"/*.whl; do
    [ -e "$wheel" ] && "$python" -m zipfile -e "$wheel" "$unpacked"
done
export PYTHONPATH="$root/src:$unpacked${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
"$python" "$root/benchmarks/gpu/run.py" "$@"
