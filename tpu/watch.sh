#!/usr/bin/env bash
# Follows a job to its end, and starts the TPU and the job anew where the TPU was taken away.
set -euo pipefail
# shellcheck source=tpu/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<USAGE
usage: tpu/watch.sh NAME [--restarts 20] [--delete] [--to DIR] [options]

Looks every 30 seconds. A TPU that was preempted is deleted and created again as tpu/create.sh made it, set up, and the
job launched as tpu/launch.sh did; it goes on from its last checkpoint in the bucket. A job that ends with an error is
not repeated. At the end the results are copied here. Ctrl-C ends the watching only.

  --restarts   how often at most to create a TPU again, or try to
  --delete     delete the TPU at the end of the job, whichever it is, once the results were copied
  --to DIR     for the results, default: tpu_results/NAME
$common_usage
USAGE
}

restarts=20 delete=false to=()
while [ $# -gt 0 ]; do
    case $1 in
        --restarts) restarts=$(value "$@"); shift 2 ;;
        --delete) delete=true && shift ;;
        --to) to=(--to "$(value "$@")"); shift 2 ;;
        *) common_option "$@"; shift "$taken" ;;
    esac
done
check_options
recall create || fail "$name was not created by tpu/create.sh on this machine: nothing says how to create it again"
create=("${words[@]}")
recall launch || fail "nothing was launched on $name from this machine: tpu/launch.sh $name -- RECIPE OPTIONS"
launch=("${words[@]}")

say() {
    tell "$(date '+%H:%M:%S')  $*"
}

check_wanted() { # tpu/delete.sh forgets how a TPU was created before it deletes it
    [ -f "$state/create" ] || fail "$name was deleted by tpu/delete.sh: not creating it again"
}

spend_restart() { # WHY
    [ "$restarts" -gt 0 ] || finish 1 "$1, and no restart is left: raise --restarts and watch again"
    restarts=$((restarts - 1))
    say "$1: starting anew, $restarts more times at most"
}

rerun() { # SCRIPT WORDS...
    local other=$1
    shift
    if $dry_run; then set -- --dry-run "$@"; fi
    bash "$repository/tpu/$other" "$@"
}

start_anew() { # a preempted TPU cannot be started again, only deleted and created
    again delete.sh || say "the old TPU is not quite gone; trying anyway"
    until rerun create.sh "${create[@]}" && again setup.sh && rerun launch.sh "${launch[@]}"; do
        if $dry_run; then exit 1; fi
        spend_restart "the new TPU did not come up"
        sleep "$((10 * poll))"
        again delete.sh || true
    done
}

finish() { # STATUS WHY
    local status=$1
    say "$2"
    if ! again copy.sh ${to[@]+"${to[@]}"}; then
        say "the results could not be copied from the TPU"
        case $(node_state) in
            PREEMPTED | TERMINATED | NONE) ;; # its disk is gone
            *) delete=false status=1 ;;
        esac
    fi
    if $delete; then again delete.sh; else tell "still billing: tpu/delete.sh $name ends that"; fi
    exit "$status"
}

look='bash aillm_tf/tpu/worker.sh status' lines='' silent=0 stopped=0
follow() { # one look at a TPU that is there; ends this script where the job has ended
    local before=$lines states
    if ! on_workers "$look" >/dev/null 2>&1; then
        silent=$((silent + 1))
        [ "$silent" -lt 20 ] || fail "not all workers answered, 20 times in a row: see tpu/status.sh $name; it is billing"
        return
    fi
    silent=0
    lines=$(worker_lines)
    [ "$lines" = "$before" ] || say "$lines"
    states=$(cut -f 1 <<<"$lines" | cut -d ' ' -f 3-)
    if grep -qxE 'killed|idle' <<<"$states"; then
        check_wanted # a TPU that is being deleted loses its jobs first
        spend_restart "a worker has lost its job, as by a reboot"
        on_workers 'bash aillm_tf/tpu/worker.sh stop' || true
        rerun launch.sh "${launch[@]}"
    elif grep -qx 'exit 143' <<<"$states"; then # SIGTERM: the TPU is being taken away, or somebody stopped the job
        stopped=$((stopped + 1))
        [ "$stopped" -lt 10 ] || finish 1 "the job was stopped by SIGTERM, and the TPU is still there"
    elif grep -qE '^exit [1-9]' <<<"$states"; then
        on_workers 'bash aillm_tf/tpu/worker.sh stop' || true
        finish 1 "the job has failed; all of its logs are beside the results"
    elif grep -qx 'upload failed' <<<"$states"; then
        finish 1 "the job has ended, but its last files did not reach the bucket"
    elif ! grep -qxE 'running|uploading' <<<"$states"; then
        finish 0 "the job has finished"
    fi
}

if $dry_run; then
    node_state >/dev/null
    on_workers "$look"
    echo "# where the TPU was taken away:"
    start_anew
    echo "# at the end of the job:"
    finish 0 ""
fi

while :; do
    now=$(node_state) || now=unknown
    case $now in
        READY) follow ;;
        PREEMPTED | TERMINATED | STOPPED | STOPPING | DELETING | NONE)
            check_wanted
            spend_restart "the TPU is $now"
            stopped=0
            start_anew
            ;;
        *) say "the TPU is $now" ;;
    esac
    sleep "$poll"
done
