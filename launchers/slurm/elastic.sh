# Sourced by a job of MIN:MAX nodes, with MAX: serves torchrun's rendezvous store, and asks for nodes in the place of lost ones.
# By an --elastic job with MAX and the folder of its logs: serves the coordinator, with a secret that is kept there.

lose="--no-kill --kill-on-bad-exit=0 --wait=0"
joiners=$SLURM_JOB_NAME-joins-$SLURM_JOB_ID
secret=
launchers=$(dirname "${BASH_SOURCE[0]}")/..

# Queue this same script as a further job; prints its number.
queue() {
    local unset=() name
    for name in $(compgen -e SLURM_); do [ "$name" = SLURM_CONF ] || unset+=(-u "$name"); done
    env "${unset[@]}" sbatch --parsable "$@" "$0"
}

# SLURM takes a failed node out of a job for good. Another one joins as a job of its own.
replace_lost_nodes() {
    local here coming taken left_time left=20 # in case they fail at once
    while [ "$left" -gt 0 ] && sleep 20; do
        here=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%D) || continue
        coming=$(squeue --noheader --me --name="$joiners" --format=%i | wc -l)
        [ $((here + coming)) -lt "$1" ] || continue
        left=$((left - 1))
        read -r taken left_time < <(squeue --noheader --jobs="$SLURM_JOB_ID" --format="%N %L")
        BITSCALE_JOINS="$MASTER_ADDR $MASTER_PORT $PET_RDZV_ID" \
            queue --job-name="$joiners" --nodes=1 --exclude="$taken" --no-requeue --time="$left_time" |
            sed "s/^/a node was lost; one that joins is asked for as job /"
    done
}

# Queued again, a job waits for as many nodes as it was given first, also if one of them is out of order. SLURM lets nobody
# change that before this script has ended, so the run goes on in a further job, for which MIN nodes are enough.
queue_again() {
    local here number
    here=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%D)
    if [ "${here:-$2}" -lt "$2" ] && number=$(queue --nodes="$1-$2" --dependency="afterany:$SLURM_JOB_ID"); then
        echo "has lost nodes: goes on as job $number, on $1 to $2"
    else
        echo "queues itself again"
        scontrol requeue "$SLURM_JOB_ID"
    fi
}

# A file that only this user may read: neither SLURM nor a log gets to know what is in it.
make_secret() {
    export BITSCALE_SECRET_FILE=$secret
    rm -f "$secret" # of this job before it was queued again
    (umask 077 && set -C && head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$secret") && [ -s "$secret" ] && return
    echo "error: $secret cannot be written; submit again with a --logs FOLDER that can, and that all nodes share" >&2
    exit 2
}

# Training goes on while the coordinator is gone. It hears no signal to the job: ranks that save may need it.
serve_coordinator() {
    local code
    trap '' TERM USR1
    until
        BITSCALE_SECRET=$(<"$secret") python "$launchers/coordinator.py" "$MASTER_ADDR:$MASTER_PORT"
        code=$?
        [ "$code" = 3 ] || [ "$code" = 4 ] # it has said why it cannot listen
    do
        echo "the coordinator has ended with $code; it is started again, and training goes on" >&2
        sleep 1
    done
    echo "error: the ranks find no coordinator, so the job is cancelled; submit again, for another port" >&2
    scancel "$SLURM_JOB_ID"
}

if [ -n "${2:-}" ]; then
    export PET_NNODES=$1 BITSCALE_SERVED=1
fi
if [ -n "${BITSCALE_JOINS:-}" ]; then
    read -r MASTER_ADDR MASTER_PORT PET_RDZV_ID <<<"$BITSCALE_JOINS"
    PET_RDZV_ENDPOINT=$MASTER_ADDR:$MASTER_PORT
else
    export BITSCALE_JOB="SLURM job $SLURM_JOB_ID${SLURM_CLUSTER_NAME:+ of $SLURM_CLUSTER_NAME}"
    scancel --quiet --me --name="$joiners" # of this job before it was queued again
    if [ -n "${2:-}" ]; then
        secret=$2/$SLURM_JOB_NAME-$SLURM_JOB_ID.secret
        make_secret
        serve_coordinator &
    else
        # No agent's: that of any node may be lost.
        python "$launchers/rendezvous_store.py" "$MASTER_PORT" &
    fi
    serving=$!
    replace_lost_nodes "$1" &
    replacing=$!
    disown "$serving" "$replacing" # of whose end bash says nothing then
    trap 'kill -KILL $(pgrep -P "$serving,$replacing") "$serving" "$replacing" 2>/dev/null; scancel --quiet --me --name="$joiners"; [ -z "$secret" ] || rm -f "$secret"' EXIT
fi
