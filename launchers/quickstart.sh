#!/usr/bin/env bash
# Set up, pre-train a small BiT ResNet on the embedded images, fine-tune it few-shot, and write a report.
# usage: launchers/quickstart.sh [--device auto|cpu|cuda]
set -euo pipefail
cd "$(dirname "$0")/.."
source launchers/setup.sh

device=auto
case "${1:-}" in
"") ;;
--device) device=${2:?"usage: launchers/quickstart.sh [--device auto|cpu|cuda]"} ;;
*) fail "unknown argument $1; usage: launchers/quickstart.sh [--device auto|cpu|cuda]" ;;
esac

set_up
digits=${BITSCALE_DATA:-data}/digits
[ -f "$digits/manifest.json" ] || "$PYTHON" -m data_pipelines.prepare digits --out "$digits"

"$PYTHON" -m torch.distributed.run --standalone --nproc-per-node 1 trainer/pretrain.py embedded --device "$device"
"$PYTHON" trainer/transfer.py sweep --sources runs/embedded scratch --targets digits \
    --shots 1 5 10 100 full --seeds 3 \
    --data.image-size 32 --schedule.steps 100 --optim.base-lr 0.1 --precision fp32 --device "$device"
"$PYTHON" trainer/report.py runs --out report --force
echo "The report is in $PWD/report/report.md, its figure in $PWD/report/few_shot_digits.png"
