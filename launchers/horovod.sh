#!/usr/bin/env bash
# Start the trainer with horovodrun, from one node on all of them (ssh), and with --engine horovod.
# usage: launchers/horovod.sh [OPTIONS] -- RECIPE [ARGUMENTS OF bitscale pretrain]
#   --nproc N           ranks in all; default: the slots of the hostfile, or one per GPU of this node, or 1 on a CPU
#   --hostfile FILE     lines "HOST slots=4"; without it, this node alone
#   --interface NAME    network interface for NCCL and Gloo, such as ib0
#   --dry-run           show the command
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/common.sh"

nproc='' hostfile='' interface='' dry_run=''
while [ $# -gt 0 ]; do
    case $1 in
    --nproc) nproc=${2:?} && check_number "$1" "$2" && shift ;;
    --hostfile) hostfile=${2:?} && check_hostfile "$2" && shift ;;
    --interface) interface=${2:?} && use_interface "$2" && shift ;;
    --dry-run) dry_run=1 ;;
    -h | --help) usage && exit ;;
    --) shift && break ;;
    --nodes | --nnodes) fail "Horovod's launcher takes its nodes from --hostfile and needs all of them; where some may be lost, or
join, take launchers/torchrun.sh --nodes MIN:MAX ... --engine horovod" ;;
    *) refuse_argument "$@" ;;
    esac
    shift
done
for argument in "$@"; do
    case $argument in --engine | --engine=*) fail "horovodrun starts ranks for --engine horovod alone, which is given already" ;; esac
done

environment_python
"$PYTHON" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("horovod") is None)' ||
    fail "horovod is not installed in $(dirname "$(dirname "$PYTHON")"); build it with launchers/install_horovod.sh"
if [ -n "$hostfile" ]; then
    nproc=${nproc:-$(sed -n 's/^[^#]* slots=\([0-9]*\).*/\1/p' "$hostfile" | awk '{ n += $1 } END { print n }')}
    hosts=(--hostfile "$hostfile")
else
    nproc=${nproc:-$(ranks_of_this_node)}
    hosts=(-H "localhost:$nproc")
fi
[ -z "$interface" ] || hosts+=(--network-interfaces "$interface")
# The recipe, if one is named, comes first among the trainer's arguments.
recipe=()
if [ $# -gt 0 ] && [[ $1 != -* ]]; then recipe=("$1") && shift; fi
start "$PYTHON" -m horovod.runner.launch --gloo -np "$nproc" "${hosts[@]}" "$PYTHON" \
    "$(dirname "$launchers")/trainer/pretrain.py" ${recipe[@]+"${recipe[@]}"} --engine horovod "$@"
