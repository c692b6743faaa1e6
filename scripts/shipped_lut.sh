#!/usr/bin/env bash
# Measures the latency table that data/ holds: about ten minutes on one core of a quiet machine.
# It covers the classes of every data set at widths 1.0 and 1.2, and the digits. A table that was
# stopped is resumed; one of another machine or runtime is left as it is: name another OUTPUT.
# Usage: bash scripts/shipped_lut.sh [OUTPUT] [flags of build_lut.py, as --runtime torch]
set -euo pipefail
cd "$(dirname "$0")/.."
output=${1:-runs/cpu_lut_mbv3.yaml}
[ $# -eq 0 ] || shift
measure() {
    "${PYTHON:-.venv/bin/python}" scripts/build_lut.py --out "$output" --rel_err 0.01 \
        --max_repeats 200 "$@"
}
measure --dataset digits --width 0.35 "$@"
for width in 1.0 1.2; do
    measure --width "$width" --n_classes 1000 --resolutions 192:256:4 "$@"
    for classes in 10 37 47 100 102; do  # only the classifier differs
        measure --width "$width" --n_classes "$classes" --resolutions 192 "$@"
    done
done
