#!/bin/sh
# Fine-tunes on N processes of this machine: one for each GPU, or CPU processes where there is none.
# Usage: sh scripts/distributed_train.sh N DATA [flags of train_imagenet.py]
#        SCRIPT=train_cifar.py sh scripts/distributed_train.sh N DATA [flags of train_cifar.py]
# Several machines: on each, set TORCHRUN_OPTIONS to torchrun's rendezvous, for example
#   TORCHRUN_OPTIONS="--nnodes 2 --rdzv_backend c10d --rdzv_endpoint HOST:29500 --rdzv_id 1"
# PYTHON names another interpreter than that of .venv (python3 where there is no .venv).
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
case ${1:-} in
    ''|*[!0-9]*|0*)
        echo "distributed_train.sh: error: the first argument is the number of processes" >&2
        exit 2 ;;
esac
n=$1
shift
[ -x "$here/.venv/bin/python" ] && venv=$here/.venv/bin/python || venv=python3
python=${PYTHON:-$venv}
script=$here/${SCRIPT:-train_imagenet.py}
"$python" "$script" --check "$n" "$@"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# without a rendezvous of its own, --standalone finds a free port on this machine
exec "$python" -m torch.distributed.run ${TORCHRUN_OPTIONS:---standalone} \
    --nproc_per_node "$n" "$script" "$@"
