#!/usr/bin/env bash
# Start the trainer with DeepSpeed's launcher, from one node on all of them (ssh). Which engine runs says --engine.
# usage: launchers/deepspeed.sh [OPTIONS] -- RECIPE [ARGUMENTS OF bitscale pretrain, such as --engine deepspeed]
#   --nproc N           ranks per node; default: one per GPU, or 1 on a CPU
#   --hostfile FILE     lines "HOST slots=4"; without it, this node alone
#   --master ADDR:PORT  where rank 0 listens; default: this node and a free port, or the first host and port 29500
#   --interface NAME    network interface for NCCL and Gloo, such as ib0
#   --dry-run           show the command
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/common.sh"

nproc='' hostfile='' master='' dry_run=''
while [ $# -gt 0 ]; do
    case $1 in
    --nproc) nproc=${2:?} && check_number "$1" "$2" && shift ;;
    --hostfile) hostfile=${2:?} && check_hostfile "$2" && shift ;;
    --master) master=${2:?} && shift ;;
    --interface) use_interface "${2:?}" && shift ;;
    --dry-run) dry_run=1 ;;
    -h | --help) usage && exit ;;
    --) shift && break ;;
    --nodes | --nnodes) fail "DeepSpeed's launcher takes its nodes from --hostfile and needs all of them; where some may be lost, or
join, take launchers/torchrun.sh --nodes MIN:MAX ... --engine deepspeed" ;;
    *) refuse_argument "$@" ;;
    esac
    shift
done

environment_python
"$PYTHON" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("deepspeed") is None)' ||
    fail "deepspeed is not installed in $(dirname "$(dirname "$PYTHON")"); pip install deepspeed"
command -v nvidia-smi >/dev/null || settings+=(DS_ACCELERATOR="${DS_ACCELERATOR:-cpu}")
command=("$PYTHON" -m deepspeed.launcher.runner --no_local_rank)
# A name that is no file keeps DeepSpeed from reading /job/hostfile, which another job may have left.
command+=(--hostfile "${hostfile:-/dev/null}")
if [ -z "$hostfile" ]; then
    command+=(--num_gpus "${nproc:-$(ranks_of_this_node)}")
elif [ -n "$nproc" ]; then
    command+=(--num_gpus "$nproc")
fi
if [ -z "$master$hostfile" ]; then
    master=127.0.0.1:$("$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
fi
if [ -n "$master" ]; then
    [[ $master =~ ^[^:]+:[0-9]+$ ]] || fail "--master $master is not ADDR:PORT"
    command+=(--master_addr "${master%:*}" --master_port "${master##*:}")
fi
start "${command[@]}" "$(dirname "$launchers")/trainer/pretrain.py" "$@"
