#!/usr/bin/env bash
# The whole main job on real data with nothing downloaded but packages: set-up, a search over the
# supernet of handwritten digits in data/, selection, validation, pictures. All in runs/demo/.
# Usage: bash scripts/demo.sh [--fresh] [--train]
#   --fresh  start anew; without it an interrupted demo goes on where it stopped
#   --train  train the supernet anew first (minutes), instead of using the one in data/
set -euo pipefail
cd "$(dirname "$0")/.."

run=runs/demo
supernet=data/ofa_digits_d234_e346_k357_w0.35
fresh='' train=''
for flag in "$@"; do
    case $flag in
        --fresh) fresh=1 ;;
        --train) train=1 fresh=1 ;;
        *) echo "demo.sh: error: unknown flag '$flag'; known are --fresh and --train" >&2; exit 2 ;;
    esac
done

echo "[demo] about three minutes on two CPU cores after the set-up; results go to $run/"
[ -x .venv/bin/python ] || echo "[demo] the set-up downloads and installs about 5.5 GB, most of it torch with CUDA, once"

. scripts/setup_env.sh
setup_env requirements.txt
[ -z "$fresh" ] || rm -rf "$run"
if [ -n "$train" ]; then
    rm -rf "$run.supernet" && mkdir -p "$run.supernet"
    supernet=$run.supernet/$(basename "$supernet")
    echo "[demo] training the supernet: $supernet"
    PYTHON="$PYTHON" bash scripts/train_digits_supernet.sh "$supernet"
fi

echo "[demo] 1/4 search: accuracy against FLOPs, 60 + 6 x 8 evaluations"
if [ -f "$run/settings.json" ]; then
    "$PYTHON" msunas.py --resume "$run"
else
    "$PYTHON" msunas.py --save "$run" --dataset digits --supernet_path "$supernet" \
        --sec_obj flops --n_doe 60 --iterations 6 --n_iter 8 --seed 0
fi

echo "[demo] 2/4 selection, and the accuracy on images that the search did not see: $run/selected/"
rm -rf "$run/selected"
"$PYTHON" post_search.py -n 3 --rescore --expr "$run" --save "$run/selected" --supernet_path "$supernet"

echo "[demo] 3/4 pictures and report: $run/plots/, $run/search.gif, $run/architecture.svg, $run/report.html"
"$PYTHON" scripts/plot_search.py "$run"
"$PYTHON" scripts/animate.py "$run"
"$PYTHON" scripts/draw.py "$run" --save "$run/architecture.svg"
"$PYTHON" scripts/report.py "$run"

echo "[demo] 4/4 validation: on the search's images, which must repeat the recorded accuracy, and on the test images"
for net in "$run"/selected/net-*; do
    for split in valid test; do
        printf '[demo] %s %s ' "$net" "$split"
        "$PYTHON" validation.py --dataset digits --split "$split" --model "$net/net.config" \
            --pretrained "$net/net.inherited" | tail -n 1
    done
done
best=$(ls -d "$run"/selected/net-* | tail -n 1)
cat <<END
[demo] done. Look at it: open $run/report.html in a browser (it needs no network), or $run/plots/history.png
[demo] next: export a network, and see what it says of pictures of your own
    .venv/bin/python scripts/export.py $best/net.config $best/net.inherited --to onnx --dataset digits
    .venv/bin/python validation.py --dataset digits -m $best/net.config --pretrained $best/net.inherited --predict PICTURE
[demo] or search your own pictures: README.md, "Your own pictures in six commands"
END
