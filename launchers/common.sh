# Sourced by torchrun.sh, deepspeed.sh and horovod.sh: finds Python and the trainer, reads options, starts or shows.

# By the name that was typed, which other nodes know too, unless it is a link to this folder or to a script of it.
launchers=$(cd "$(dirname "$0")" && pwd)
[ -e "$(dirname "$launchers")/trainer/pretrain.py" ] || launchers=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$launchers/setup.sh" # for `fail`; sets nothing up

typed=$(printf '%q ' "$0" "$@")

usage() { sed -n '/^# usage:/,/^[^#]/s/^# \{0,1\}//p' "$0"; }

# Refuse the first of what is left before --; a recipe, and what follows it, is shown where it belongs.
refuse_argument() {
    local meant=''
    case $1 in -*) ;; *) meant=", as in: $(printf '%q ' "$0" -- "$@")" meant=${meant% } ;; esac
    fail "unknown argument $1; the trainer's come after --${meant:-"; $0 --help lists the options"}"
}

# The Python of the active environment, or of the .venv beside this folder.
environment_python() {
    if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -x "$launchers/../.venv/bin/python" ]; then
        PYTHON=$(cd "$launchers/../.venv/bin" && pwd)/python
    else
        PYTHON=$(command -v python || command -v python3) || fail "no Python found; activate the environment of bitscale"
    fi
}

# One rank per GPU that may be used, or one rank on the CPU.
ranks_of_this_node() {
    if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
        tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c .
    elif [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then # all are hidden
        echo 1
    elif command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
        nvidia-smi -L | grep -c '^GPU'
    else
        echo 1
    fi
}

check_number() { [[ $2 =~ ^[1-9][0-9]*$ ]] || fail "$1 $2 is not a number of at least 1"; }

# "host slots=4" a line, as deepspeed and horovodrun read it. Their own message for a wrong name comes minutes later.
check_hostfile() {
    local host slots number=0
    [ -r "$1" ] || fail "the hostfile $1 cannot be read"
    while read -r host slots || [ -n "$host" ]; do
        number=$((number + 1))
        case $host in '' | '#'*) continue ;; esac
        [[ $slots =~ ^slots=[1-9][0-9]*$ ]] || fail "$1, line $number: '$host $slots' is not of the form 'HOST slots=4'"
        getent hosts "$host" >/dev/null || fail "$1, line $number: no host $host is known here; correct the name, or use its address"
    done <"$1"
}

# Refuse what a rank would refuse, in one process by itself, whatever job this is part of. Ends with its exit code, 2.
check_configuration() {
    local unset=() name
    for name in $(compgen -e SLURM_) $(compgen -e PMI) $(compgen -e PET_); do unset+=(-u "$name"); done
    env ${unset[@]+"${unset[@]}"} RANK=0 WORLD_SIZE=1 LOCAL_RANK=0 LOCAL_WORLD_SIZE=1 \
        "$PYTHON" "$(dirname "$launchers")/trainer/pretrain.py" "$@" --preflight-only >/dev/null || exit
}

settings=() # environment variables of what is started
use_interface() { settings+=(NCCL_SOCKET_IFNAME="$1" GLOO_SOCKET_IFNAME="$1"); }

# Start what is given, or only show it. The command is one line that a shell reads back as it is.
start() {
    [ ${#settings[@]} = 0 ] || set -- env "${settings[@]}" "$@"
    if [ -n "$dry_run" ]; then
        printf '%q ' "$@"
        echo
    else
        # exec keeps the number: ranks that start after this has died know it by that.
        export BITSCALE_LAUNCHER="$(uname -n) $$" BITSCALE_COMMAND="${typed% }"
        exec "$@"
    fi
}
