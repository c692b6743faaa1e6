#!/usr/bin/env bash
# Trains the supernet of handwritten digits that data/ holds: about eight minutes on one CPU core.
# One thread, so that the result can be repeated; "--threads 2" at the end is faster.
# Usage: bash scripts/train_digits_supernet.sh [OUTPUT] [flags of train_supernet.py, as --resume]
set -euo pipefail
cd "$(dirname "$0")/.."
output=${1:-runs/ofa_digits_d234_e346_k357_w0.35}
[ $# -eq 0 ] || shift
exec "${PYTHON:-.venv/bin/python}" train_supernet.py --save "$output" --dataset digits \
    --epochs 20 5 5 30 --batch_size 64 --opt adamw --lr 3e-3 --shrink_lr 2e-3 \
    --weight_decay 0.05 --n_random 1 --threads 1 --seed 0 "$@"
