# Sourced by a job of MIN:MAX nodes, with MAX: serves torchrun's rendezvous store, and asks for nodes in the place of lost ones.

lose="--no-kill --kill-on-bad-exit=0 --wait=0"
joiners=$SLURM_JOB_NAME-joins-$SLURM_JOB_ID

# SLURM takes a failed node out of a job for good. Another one joins as a job of its own, from this same script.
replace_lost_nodes() {
    local here coming taken left_time unset name left=20 # in case they fail at once
    while [ "$left" -gt 0 ] && sleep 20; do
        here=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%D) || continue
        coming=$(squeue --noheader --me --name="$joiners" --format=%i | wc -l)
        [ $((here + coming)) -lt "$1" ] || continue
        left=$((left - 1))
        unset=()
        for name in $(compgen -e SLURM_); do [ "$name" = SLURM_CONF ] || unset+=(-u "$name"); done
        read -r taken left_time < <(squeue --noheader --jobs="$SLURM_JOB_ID" --format="%N %L")
        env "${unset[@]}" BITSCALE_JOINS="$MASTER_ADDR $MASTER_PORT $PET_RDZV_ID" \
            sbatch --parsable --job-name="$joiners" --nodes=1 --exclude="$taken" --no-requeue --time="$left_time" "$0" |
            sed "s/^/a node was lost; one that joins is asked for as job /"
    done
}

if [ -n "${BITSCALE_JOINS:-}" ]; then
    read -r MASTER_ADDR MASTER_PORT PET_RDZV_ID <<<"$BITSCALE_JOINS"
    PET_RDZV_ENDPOINT=$MASTER_ADDR:$MASTER_PORT
else
    export BITSCALE_JOB="SLURM job $SLURM_JOB_ID${SLURM_CLUSTER_NAME:+ of $SLURM_CLUSTER_NAME}"
    scancel --quiet --me --name="$joiners" # of this job before it was queued again
    # No agent's: that of any node may be lost.
    python "$(dirname "${BASH_SOURCE[0]}")/../rendezvous_store.py" "$MASTER_PORT" &
    serving=$!
    replace_lost_nodes "$1" &
    replacing=$!
    trap 'kill "$serving" "$replacing" 2>/dev/null; scancel --quiet --me --name="$joiners"' EXIT
fi
