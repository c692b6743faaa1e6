#!/bin/sh
# Checks on a machine with GPUs, in eight minutes, what no machine without can show: one line for each check, and a JSON of all.
# Usage: bash scripts/gpu_check.sh [--device cpu] [--wheels DIR] [CHECK ...]
#        bash scripts/gpu_check.sh --wheels DIR --python 3.12   # with a network: makes DIR for a machine without
# Exit code: 0 all passed, 1 a check failed, 2 there is no GPU, or a package is missing. Nothing is installed.
# PYTHON names another interpreter with torch than that of .venv, or where there is none, python3.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
venv=$here/.venv/bin/python
python=${PYTHON:-$([ -x "$venv" ] && echo "$venv" || echo python3)}
if ! command -v "$python" >/dev/null; then
    echo "error: $python: no such interpreter; set PYTHON to one that has torch" >&2
    exit 2
fi
exec "$python" "$here/benchmarks/gpu_check.py" "$@"
