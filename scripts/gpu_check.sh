#!/bin/sh
# Checks on a machine with GPUs, in about ten minutes, what no machine without can show: one line for each check.
# Usage: bash scripts/gpu_check.sh [--device cpu] [CHECK ...]
# Exit code: 0 all passed, 1 a check failed, 2 there is no GPU or no set-up. PYTHON names another interpreter than that of .venv.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$here/.venv/bin/python}
if ! command -v "$python" >/dev/null; then
    echo "error: $python: no such interpreter; run bash scripts/demo.sh, which makes .venv, or set PYTHON" >&2
    exit 2
fi
exec "$python" "$here/scripts/gpu_check.py" "$@"
