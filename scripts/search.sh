#!/bin/sh
# The published searches, by name. Usage:
#   sh scripts/search.sh list
#   sh scripts/search.sh DATASET-OBJECTIVE --data /path/to/data [more flags of msunas.py]
# OBJECTIVE: flops, params, cpu (latency table), or random (random search).
# DRY=1 prints the command instead of running it; PYTHON chooses the interpreter (default: that of
# .venv, where scripts/setup_env.sh made one).
set -eu

DATASETS="imagenet cifar10 cifar100 cinic10 stl10 aircraft dtd pets flowers102"
OBJECTIVES="flops params cpu random"

list() {
    for dataset in $DATASETS; do
        for objective in $OBJECTIVES; do
            echo "$dataset-$objective"
        done
    done
}

# Images split off the training set for validation, as published; dtd, pets and flowers102 have no
# published command. Epochs of fine-tuning, batch size and learning rate are in the table of
# data_providers.
vld_size() {
    case $1 in
        imagenet | cinic10) echo 10000 ;;
        cifar10 | cifar100) echo 5000 ;;
        stl10 | aircraft | dtd | pets) echo 500 ;;
        flowers102) echo 204 ;;
    esac
}

predictor() {
    case $1 in
        imagenet) echo rbf ;;
        *) echo as ;;
    esac
}

name=${1:-}
if [ "$name" = list ]; then
    list
    exit 0
fi
if ! list | grep -qx -e "$name"; then
    echo "search.sh: error: unknown search '$name'; 'sh scripts/search.sh list' shows them" >&2
    exit 2
fi
shift
dataset=${name%-*}
objective=${name##*-}

if [ "$objective" = random ]; then
    set -- --sec_obj flops --n_doe 350 --iterations 0 "$@"
else
    set -- --sec_obj "$objective" --n_doe 100 --iterations 30 --n_iter 8 \
        --predictor "$(predictor "$dataset")" "$@"
fi
[ -n "${PYTHON:-}" ] || PYTHON=$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python)
set -- "$PYTHON" msunas.py --dataset "$dataset" --vld_size "$(vld_size "$dataset")" \
    --save "runs/$name" "$@"

if [ -n "${DRY:-}" ]; then
    printf '%s\n' "$@"
else
    exec "$@"
fi
