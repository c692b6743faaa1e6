# Sourced by demo.sh and test.sh: creates .venv with Python 3.11 and installs the requirements, every package pinned by its hash.
# Usage: . scripts/setup_env.sh; setup_env requirements.txt [more.txt ...]
# Safe to run again: what is installed already is skipped. Afterwards $PYTHON is the interpreter.
# TORCH=cpu takes torch and torchvision without CUDA, in the pinned versions from TORCH_INDEX, an index of such wheels; without
# TORCH_INDEX, the newest version +cpu that the registry has. uv is used where it is installed.

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

# Installs into the environment of $PYTHON.
install() {
    if command -v uv >/dev/null; then
        uv pip install --quiet --python "$PYTHON" "$@"
    else
        "$PYTHON" -m pip install --quiet --disable-pip-version-check "$@"
    fi
}

pinned() {
    sed -n "s/^$1==//p" requirements.txt
}

install_torch_cpu() {
    if [ -n "${TORCH_INDEX:-}" ]; then
        install --index-url "$TORCH_INDEX" "torch==$(pinned torch)" "torchvision==$(pinned torchvision)"
    else
        version=$("$PYTHON" -m pip index versions torch 2>/dev/null | tr ', ' '\n\n' | grep -m 1 '+cpu' || true)
        if [ -z "$version" ]; then
            echo "error: TORCH=cpu: the registry has no torch without CUDA; set TORCH_INDEX to an index of such wheels" >&2
            exit 2
        fi
        minor=${version#*.}
        "$PYTHON" -m pip install --quiet --disable-pip-version-check "torch==$version"
        install --no-deps "torchvision==0.$((${minor%%.*} + 15)).*"
    fi
}

# That of another build than torch's has no operators.
check_torchvision() {
    if ! "$PYTHON" -c 'import torchvision' 2>/dev/null; then
        echo "error: TORCH=cpu: torchvision cannot be imported with this torch; set TORCH_INDEX to an index that has both without CUDA" >&2
        exit 2
    fi
}

setup_env() {
    PYTHON="$PWD/.venv/bin/python"
    if ! "$PYTHON" -c 'import sys, pip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
        base=$(find_python) || exit 2
        echo "[set-up] creating .venv with $("$base" --version)"
        "$base" -m venv --clear .venv
        [ "${TORCH:-}" != cpu ] || echo '^(torch|torchvision|triton|nvidia-[^=]*|cuda-[^=]*)==' > .venv/without
    fi
    for requirements in "$@"; do
        lock="${requirements%.txt}.lock"
        stamp=".venv/installed-$(basename "$lock")"
        if cmp -s "$lock" "$stamp"; then
            echo "[set-up] $requirements is installed already"
            continue
        fi
        echo "[set-up] installing $requirements (the first time takes some minutes)"
        if [ -e .venv/without ]; then
            [ -e .venv/installed-requirements.lock ] || install_torch_cpu
            awk -v without="$(cat .venv/without)" '/^[^ ]/ {keep = $0 !~ without} keep' "$lock" > .venv/rest.txt
            install --no-deps --require-hashes -r .venv/rest.txt
            check_torchvision
        else
            install --require-hashes -r "$lock"
        fi
        cp "$lock" "$stamp"
    done
}
