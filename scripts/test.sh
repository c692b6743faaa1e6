#!/usr/bin/env bash
# Sets up .venv and runs every test, two at a time. Usage: bash scripts/test.sh [pytest arguments],
# as -n 0 for one at a time.
#   --lowest   the fast tests with the oldest versions that pyproject.toml allows, in .venv-lowest
#   --newest   ... with the newest that there are, in .venv-newest
# For these PYTHON names the interpreter: from 3.11 on (--lowest: 3.11 alone).
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup_env.sh

# The fast tests in an environment of their own, of the name $1; the rest are arguments of install.
fast_tests() {
    venv=.venv-$1
    [ -x "$venv/bin/python" ] || "${base:-${PYTHON:-python3}}" -m venv "$venv"
    PYTHON="$PWD/$venv/bin/python"
    echo "[test] $venv: $("$PYTHON" --version), the fast tests"
    install "${@:2}"
    exec "$PYTHON" -m pytest -n 2 -m "not slow" "${arguments[@]}"
}

arguments=("${@:2}")
case ${1:-} in
    --lowest)
        base=$(find_python)
        fast_tests lowest --require-hashes -r requirements-lowest.lock ;;
    --newest)
        mapfile -t packages < <("${PYTHON:-python3}" -c 'import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))
print(*project["project"]["dependencies"], *project["dependency-groups"]["test"], sep="\n")')
        fast_tests newest --upgrade "${packages[@]}" ;;
esac
setup_env requirements.txt requirements-ray.txt requirements-dev.txt
echo "[test] ruff"
"$PYTHON" -m ruff check .
echo "[test] mypy"
"$PYTHON" -m mypy
echo "[test] pytest"
exec "$PYTHON" -m pytest -n 2 "$@"
