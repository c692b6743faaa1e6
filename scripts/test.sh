#!/usr/bin/env bash
# Sets up .venv and runs every test, two at a time. Usage: bash scripts/test.sh [pytest arguments],
# as -n 0 for one at a time.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup_env.sh
setup_env requirements.txt requirements-ray.txt requirements-dev.txt
echo "[test] ruff"
"$PYTHON" -m ruff check .
echo "[test] mypy"
"$PYTHON" -m mypy
echo "[test] pytest"
exec "$PYTHON" -m pytest -n 2 "$@"
