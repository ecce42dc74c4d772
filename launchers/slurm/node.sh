#!/bin/bash
# Run by srun on every node: sets what differs between nodes, then starts its arguments.
set -u

host=$(hostname -s)
export PET_LOCAL_ADDR=${BITSCALE_ADDRESS//\{host\}/$host}
elastic=
[[ "$1 ${2:-} ${3:-}" =~ ^torchrun\ --nnodes\ [0-9]+:[0-9]+$ ]] && elastic=1
# torchrun would look for its own host name in the endpoint, which is the name of another interface on some clusters.
is_host=$((SLURM_NODEID == 0))
[ -z "$elastic" ] || is_host=0 # the batch script is
export PET_RDZV_CONF="is_host=$is_host,join_timeout=600${elastic:+,last_call_timeout=15}"

# What is compiled goes to the node's own disk: thousands of small files, written by all ranks at once.
cache=$BITSCALE_LOCAL_DIR/bitscale-$SLURM_JOB_ID
export TORCHINDUCTOR_CACHE_DIR=$cache/inductor TRITON_CACHE_DIR=$cache/triton
if [ "$SLURM_LOCALID" = 0 ]; then trap 'rm -rf "$cache"' EXIT; fi

# SIGUSR1 asks the trainer to save and end. torchrun would die of it, so it starts deaf, and so do its workers until
# they listen. They run in sessions of their own, which a signal to this step may not reach: it is handed on.
asked=
trap 'asked=1; pkill -USR1 -P "$child"' USR1
trap 'asked=1' TERM # has reached the child too
for again in 1 2 3 0; do
    (
        trap '' USR1
        exec "$@"
    ) &
    child=$!
    while kill -0 "$child" 2>/dev/null; do wait "$child"; done
    wait "$child"
    code=$?
    # Where the run goes on without this node, an agent that was killed is started again, to join.
    [ -n "$elastic" ] && [ -z "$asked" ] && [ "$code" -gt 128 ] && [ "$again" != 0 ] || break
    sleep 5 # its ranks still end
done
# The node of the batch script may be lost. SLURM would leave the others to a job that does nothing more.
if [ -n "$elastic" ] && [ -z "$asked" ] && [ "$code" != 0 ] && [ -z "${BITSCALE_JOINS:-}" ]; then
    sleep 10
    timeout 20 bash -c "true <>/dev/tcp/$MASTER_ADDR/$MASTER_PORT" 2>/dev/null || # the store there is up to the end
        scontrol requeue "$SLURM_JOB_ID" || scancel "$SLURM_JOB_ID"
fi
exit "$code"
