#!/usr/bin/env bash
# Pins every package that the requirements install, with the hashes of its files: writes
# requirements*.lock, which setup_env.sh installs from, and requirements-lowest.lock, the oldest
# versions that pyproject.toml allows. Usage: bash scripts/lock.sh
# Needs uv (pip install uv). Versions that a lock has already are kept; to raise one, take its lines out.
set -euo pipefail
cd "$(dirname "$0")/.."
compile() {
    uv pip compile --quiet --no-config --generate-hashes --no-annotate --no-header \
        --python-version 3.11 --python-platform x86_64-manylinux_2_28 "$@"
}
constraints=()
for requirements in requirements.txt requirements-*.txt; do
    lock="${requirements%.txt}.lock"
    compile "${constraints[@]}" "$requirements" --output-file "$lock"
    constraints+=(--constraint "$lock")
done
compile --resolution lowest-direct --constraint requirements-dev.txt --group test pyproject.toml \
    --output-file requirements-lowest.lock
