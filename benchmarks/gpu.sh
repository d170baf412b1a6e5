#!/bin/bash
# Benchmarks on one GPU in at most nine minutes: see "On a GPU" in benchmarks/README.md.
#
#     benchmarks/gpu.sh --data FOLDER_OF_CIFAR10_SHARDS --output FOLDER
#     benchmarks/gpu.sh --small          every part in two minutes on a CPU, with tiny settings
#
# Nothing needs to be installed: the sources of this copy are used. PYTHON names the interpreter (default: python3),
# WHEELS a folder of wheels in pure Python that are used in place of what is installed, such as a newer filelock.
root=$(cd "$(dirname "$0")/.." && pwd)
for wheel in "${WHEELS:-/nonexistent}"/*.whl; do
    [ -e "$wheel" ] && PYTHONPATH="$(realpath "$wheel")${PYTHONPATH:+:$PYTHONPATH}"
done
export PYTHONPATH="$root/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" "$root/benchmarks/gpu/run.py" "$@"
