# Sourced by demo.sh and test.sh: creates .venv with Python 3.11 and installs the requirements, every package pinned by its hash.
# Usage: . scripts/setup_env.sh; setup_env requirements.txt [more.txt ...]
# Safe to run again: what is installed already is skipped. Afterwards $PYTHON is the interpreter.

find_python() {
    for candidate in "${PYTHON311:-}" python3.11 python3 python; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return 0
        fi
    done
    echo "error: Python 3.11 is needed; install it or set PYTHON311 to its path" >&2
    return 1
}

setup_env() {
    PYTHON="$PWD/.venv/bin/python"
    if ! "$PYTHON" -c 'import sys, pip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
        base=$(find_python) || exit 2
        echo "[set-up] creating .venv with $("$base" --version)"
        "$base" -m venv --clear .venv
    fi
    for requirements in "$@"; do
        lock="${requirements%.txt}.lock"
        stamp=".venv/installed-$(basename "$lock")"
        if cmp -s "$lock" "$stamp"; then
            echo "[set-up] $requirements is installed already"
        else
            echo "[set-up] installing $requirements (the first time takes some minutes)"
            "$PYTHON" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock"
            cp "$lock" "$stamp"
        fi
    done
}
