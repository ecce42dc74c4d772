#!/bin/bash
# Run by srun on every node: sets what differs between nodes, then starts its arguments.
set -u

host=$(hostname -s)
export PET_LOCAL_ADDR=${BITSCALE_ADDRESS//\{host\}/$host}
# torchrun would look for its own host name in the endpoint, which is the name of another interface on some clusters.
export PET_RDZV_CONF="is_host=$((SLURM_NODEID == 0)),join_timeout=600"

# What is compiled goes to the node's own disk: thousands of small files, written by all ranks at once.
cache=$BITSCALE_LOCAL_DIR/bitscale-$SLURM_JOB_ID
export TORCHINDUCTOR_CACHE_DIR=$cache/inductor TRITON_CACHE_DIR=$cache/triton
if [ "$SLURM_LOCALID" = 0 ]; then trap 'rm -rf "$cache"' EXIT; fi

# SIGUSR1 asks the trainer to save and end. torchrun would die of it, so it starts deaf, and so do its workers until
# they listen. They run in sessions of their own, which a signal to this step may not reach: it is handed on.
(
    trap '' USR1
    exec "$@"
) &
child=$!
trap 'pkill -USR1 -P "$child"' USR1
trap : TERM # has reached the child too
while kill -0 "$child" 2>/dev/null; do wait "$child"; done
wait "$child"
