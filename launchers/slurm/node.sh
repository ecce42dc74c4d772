#!/bin/bash
# Run by srun on every node: sets what differs between nodes, then starts its arguments.
set -u

host=$(hostname -s)
export BITSCALE_LAUNCHER="$(uname -n) $$" # from here on, what was typed is BITSCALE_COMMAND
export PET_LOCAL_ADDR=${BITSCALE_ADDRESS//\{host\}/$host}
elastic= in_process=
[[ "${*:1:4}" =~ ^python\ .*/agent\.py\ --nnodes\ [0-9]+:[0-9]+$ ]] && elastic=1
[[ "${*:1:3}" =~ ^torchrun\ --nnodes\ [0-9]+:[0-9]+$ ]] && elastic=1 # as scripts that were written earlier have it
[[ "$1 ${2:-}" =~ ^python\ .*/elastic\.py$ ]] && elastic=1 in_process=1
# torchrun would look for its own host name in the endpoint, which is the name of another interface on some clusters.
is_host=$((SLURM_NODEID == 0))
[ -z "$elastic" ] || is_host=0 # the batch script is
export PET_RDZV_CONF="is_host=$is_host,join_timeout=600${elastic:+,last_call_timeout=15}"

# What is compiled goes to the node's own disk: thousands of small files, written by all ranks at once.
cache=$BITSCALE_LOCAL_DIR/bitscale-$SLURM_JOB_ID
export TORCHINDUCTOR_CACHE_DIR=$cache/inductor TRITON_CACHE_DIR=$cache/triton
watching=
if [ "$SLURM_LOCALID" = 0 ]; then trap 'rm -rf "$cache"; [ -z "$watching" ] || kill "$watching" 2>/dev/null' EXIT; fi

# The batch script serves what the nodes meet at, up to its end. Its node may be lost.
batch_is_gone() { ! timeout 20 bash -c "true <>/dev/tcp/$MASTER_ADDR/$MASTER_PORT" 2>/dev/null; }
start_anew() { scontrol requeue "$SLURM_JOB_ID" || scancel "$SLURM_JOB_ID"; }
if [ -n "$in_process" ]; then
    BITSCALE_SECRET=$(cat "${BITSCALE_SECRET_FILE:-}") || {
        echo "error: $host cannot read the secret of the run; submit again with a --logs FOLDER that all nodes share" >&2
        exit 2
    }
    export BITSCALE_SECRET
    options=(--nproc "$PET_NPROC_PER_NODE" --nodes "$PET_NNODES" --max-restarts "$PET_MAX_RESTARTS")
    set -- "${@:1:2}" "${options[@]}" --endpoint "$PET_RDZV_ENDPOINT" --local-addr "$PET_LOCAL_ADDR" "${@:3}"
    unset "${!PET_@}" # or torchrun would take them for each rank's agent, which meets no others
    # Ranks would wait for a coordinator that does not come back, and be started again, for many minutes.
    if [ -z "${BITSCALE_JOINS:-}" ]; then
        (while sleep 15; do batch_is_gone && sleep 15 && batch_is_gone && start_anew; done) >/dev/null 2>&1 &
        watching=$!
    fi
fi

# An agent ends with the code of its ranks; what says here that it was killed itself is left to that.
export BITSCALE_RESTARTS_AGENT=1

# SIGUSR1 asks the trainer to save and end. torchrun would die of it, so the agent starts deaf, and so do its workers until
# they listen. They run in sessions of their own, which a signal to this step may not reach: it is handed on.
asked=
agents() { if [ -n "$in_process" ]; then pgrep -d , -P "$child"; else echo "$child"; fi; }
trap 'asked=1; pkill -USR1 -P "$(agents)"' USR1
trap 'asked=1' TERM # has reached the child too
for again in 1 2 3 0; do
    (
        trap '' USR1
        exec "$@"
    ) &
    child=$!
    # No `wait` before it has ended: a trap that interrupts one may lose the code of a child that ends just then.
    while kill -0 "$child"; do sleep 1; done 2>/dev/null # not told of a sleep that SIGUSR1 has ended
    wait "$child"
    code=$?
    # Where the run goes on without this node, an agent that was killed is started again, to join.
    [ -n "$elastic" ] && [ -z "$asked" ] && [ "$code" -gt 128 ] && [ "$again" != 0 ] || break
    sleep 5 # its ranks still end
done
# The node of the batch script may be lost. SLURM would leave the others to a job that does nothing more.
if [ -n "$elastic" ] && [ -z "$asked" ] && [ "$code" != 0 ] && [ -z "${BITSCALE_JOINS:-}" ]; then
    sleep 10
    batch_is_gone && start_anew
fi
exit "$code"
