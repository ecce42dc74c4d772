#!/usr/bin/env bash
# Start the trainer on this node's GPUs, or on one of several nodes: then run the same line on each of them.
# usage: launchers/torchrun.sh [OPTIONS] -- RECIPE [ARGUMENTS OF bitscale pretrain]
#   --nproc N           ranks on this node; default: one per GPU, or 1 on a CPU
#   --nodes N|MIN:MAX   nodes; with MIN:MAX the run goes on while MIN are left, and others may join
#   --endpoint HOST:PORT  where the nodes meet: a host that all of them reach (needed for more than one node)
#   --local-addr ADDR   how the others reach this node, where it is not its host name (InfiniBand: often <host>i)
#   --interface NAME    network interface for NCCL and Gloo, such as ib0
#   --elastic           go on in the same processes when ranks are lost, and take in those that come (experimental); each
#                       rank is started again by itself; --nodes is a number, the trainer's --min-ranks the fewest ranks
#   --last-call S       with MIN:MAX: seconds to wait for more nodes once MIN are there; default 30
#   --max-restarts N    start all ranks again, from the last checkpoint, when one dies; default 0, with MIN:MAX 10
#   --grace S           seconds to save in when stopped by a signal, before ranks are killed; default 600
#   --dry-run           show the command
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/common.sh"

nproc='' nodes=1 endpoint='' local_addr='' last_call=30 max_restarts='' grace=600 dry_run='' in_process=''
while [ $# -gt 0 ]; do
    case $1 in
    --nproc) nproc=${2:?} && check_number "$1" "$2" && shift ;;
    --nodes | --nnodes) nodes=${2:?} && shift ;;
    --endpoint) endpoint=${2:?} && shift ;;
    --local-addr) local_addr=${2:?} && shift ;;
    --interface) use_interface "${2:?}" && shift ;;
    --last-call) last_call=${2:?} && check_number "$1" "$2" && shift ;;
    --max-restarts) max_restarts=${2:?} && shift ;;
    --grace) grace=${2:?} && check_number "$1" "$2" && shift ;;
    --elastic) in_process=1 ;;
    --dry-run) dry_run=1 ;;
    -h | --help) usage && exit ;;
    --) shift && break ;;
    *) refuse_argument "$@" ;;
    esac
    shift
done
[[ $nodes =~ ^[0-9]+(:[0-9]+)?$ ]] || fail "--nodes $nodes is neither a number nor MIN:MAX, such as 2:4"
least=$((10#${nodes%:*})) most=$((10#${nodes#*:}))
[ "$least" -ge 1 ] || fail "--nodes is $nodes; it must be at least 1"
[ "$least" -le "$most" ] || fail "--nodes $nodes has MIN above MAX; write $most:$least"
elastic=$([ "$least" = "$most" ] || echo 1)
[ -z "$elastic$in_process" ] || [[ " $* " != *" --no-resume "* ]] || fail "--no-resume would start anew whenever a node joins; name another --out instead"
[ -z "$elastic" ] || [ -z "$in_process" ] || fail "--elastic takes a number of --nodes; the fewest ranks to go on with are the trainer's: --elastic --nodes $most -- ... --min-ranks N"
max_restarts=${max_restarts:-${elastic:+10}${in_process:+10}}
max_restarts=${max_restarts:-0}
[[ $max_restarts =~ ^[0-9]+$ ]] || fail "--max-restarts $max_restarts is not a number"

environment_python
# For the time to save torchrun has an option since torch 2.12, and knows this variable instead, which earlier versions do
# not: they kill after 30 s.
settings+=(TORCH_ELASTIC_SHUTDOWN_TIMEOUT="$grace")
if [ -n "$in_process" ]; then
    [ "$nodes" = 1 ] || [[ $endpoint =~ ^[^:]+:[0-9]+$ ]] || fail "--nodes $nodes needs --endpoint HOST:PORT, a host that all nodes reach"
    command=("$PYTHON" "$launchers/elastic.py" --nproc "${nproc:-$(ranks_of_this_node)}" --nodes "$nodes" --max-restarts "$max_restarts")
    [ -z "$endpoint" ] || command+=(--endpoint "$endpoint")
    [ -z "$local_addr" ] || command+=(--local-addr "$local_addr")
    [ -n "$dry_run" ] || check_configuration "$@" # a mistake would only be made again by each restart
    start "${command[@]}" -- "$(dirname "$launchers")/trainer/pretrain.py" "$@" --elastic
    exit
fi
command=("$PYTHON" "$launchers/agent.py" --nproc-per-node "${nproc:-$(ranks_of_this_node)}" --max-restarts "$max_restarts")
# By itself torchrun dies of SIGUSR1 and leaves its ranks behind.
command+=(--signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1)
# Or agents keep the address of their first start: one that joins later never learns it, and ranks start where none listen.
settings+=(TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1)
if [ "$nodes" = 1 ]; then
    command+=(--standalone)
else
    [[ $endpoint =~ ^[^:]+:[0-9]+$ ]] || fail "--nodes $nodes needs --endpoint HOST:PORT, a host that all nodes reach"
    command+=(--nnodes "$nodes" --rdzv-backend c10d --rdzv-endpoint "$endpoint" --rdzv-id bitscale)
    conf=last_call_timeout=$last_call
    if [ -n "$local_addr" ]; then # torchrun would look for its own host name in the endpoint, and not find it
        command+=(--local-addr "$local_addr")
        conf+=,is_host=$([ "${endpoint%:*}" = "$local_addr" ] && echo 1 || echo 0)
    fi
    command+=(--rdzv-conf "$conf")
fi
if [ -n "$elastic" ]; then
    export BITSCALE_JOINS=1 # a run that is under way, perhaps
fi
# A mistake would only be made again by each restart.
[ "$max_restarts" = 0 ] || [ -n "$dry_run" ] || check_configuration "$@"
start "${command[@]}" "$(dirname "$launchers")/trainer/pretrain.py" "$@"
