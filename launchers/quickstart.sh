#!/usr/bin/env bash
# Set up, pre-train a small BiT ResNet on the embedded images, fine-tune it few-shot, and write a report.
# usage: launchers/quickstart.sh [--device auto|cpu|cuda] [--short]
#   --short    the same with few steps, in two minutes after the installation, to see that all of it works; its accuracies say
#              nothing, and it keeps to folders of its own
set -euo pipefail
cd "$(dirname "$0")/.."
source launchers/setup.sh

usage='usage: launchers/quickstart.sh [--device auto|cpu|cuda] [--short]'
device=auto runs=runs report=report pretraining=() shots=(1 5 10 100 full) seeds=3 steps=100
while [ $# -gt 0 ]; do
    case $1 in
    --device) device=${2:?"$usage"} && shift ;;
    --short)
        runs=runs/short report=report/short shots=(1 full) seeds=2 steps=10
        pretraining=(--schedule.steps 60 --schedule.warmup-steps 10)
        ;;
    *) fail "unknown argument $1; $usage" ;;
    esac
    shift
done

set_up
digits=${BITSCALE_DATA:-data}/digits
[ -f "$digits/manifest.json" ] || "$PYTHON" -m data_pipelines.prepare digits --out "$digits"

"$PYTHON" -m torch.distributed.run --standalone --nproc-per-node 1 trainer/pretrain.py embedded \
    --out "$runs/embedded" --device "$device" ${pretraining[@]+"${pretraining[@]}"}
"$PYTHON" trainer/transfer.py sweep --sources "$runs/embedded" scratch --targets digits --out "$runs/transfer" \
    --shots "${shots[@]}" --seeds "$seeds" \
    --data.image-size 32 --schedule.steps "$steps" --optim.base-lr 0.1 --precision fp32 --device "$device"
"$PYTHON" trainer/report.py "$runs" --out "$report" --force
echo "The report is in $PWD/$report/report.md, its figure in $PWD/$report/few_shot_digits.png"
