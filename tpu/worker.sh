#!/usr/bin/env bash
# Runs on a worker of a Cloud TPU: one job at a time, in the background, with its log and exit status in ~/job.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: bash aillm_tf/tpu/worker.sh start [--data URI] [--bucket URI] [--env KEY=VALUE]... -- RECIPE OPTIONS...
       bash aillm_tf/tpu/worker.sh upload URI | status | running | stop

start     runs `aillm train RECIPE OPTIONS...` in the background, after copying URI of --data to ~/aillm_tf/data and
          what --bucket holds of an earlier run to ~/runs
upload    copies ~/runs to URI every minute until the job has ended, and once more then; files that are there only are
          deleted, so not before `start` has copied all of them here
status    one line: idle, running, uploading, exit STATUS, upload failed or killed; and the last line of the log
running   succeeds while a job runs
stop      lets the job write a checkpoint and end
USAGE
}

job=$HOME/job

fail() {
    echo "worker.sh on $(hostname): $*" >&2
    exit 1
}

alive() { # FILE: whether the process whose number the file holds is there
    [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null
}

in_background() { # NAME WORDS...: this script with the words, as a process group of its own that outlives the login
    local name=$1
    shift
    nohup setsid bash "$0" "$@" >"$job/$name.log" 2>&1 </dev/null &
    echo $! >"$job/$name.pid"
}

start() {
    if alive "$job/job.pid"; then fail "a job is running: bash aillm_tf/tpu/worker.sh stop ends it"; fi
    if alive "$job/upload.pid"; then fail "the results of the last job are still being uploaded: wait for that"; fi
    [ -x "$HOME/aillm_env/bin/aillm" ] || fail "there is no ~/aillm_env: run tpu/setup.sh first"
    rm -rf "$job"
    mkdir -p "$job" "$HOME/runs"
    in_background job run "$@"
}

run() {
    trap : TERM # the job itself writes its checkpoint and ends; this waits for it
    local status=0
    train "$@" || status=$?
    echo "$status" >"$job/exit.new"
    mv "$job/exit.new" "$job/exit"
}

train() {
    local data='' bucket='' settings=()
    while [ "$1" != -- ]; do
        case $1 in
            --data) data=$2 ;;
            --bucket) bucket=$2 ;;
            --env) settings+=("$2") ;;
            *) fail "unknown option $1" ;;
        esac
        shift 2
    done
    shift
    cd "$HOME/aillm_tf"
    if [ -n "$data" ]; then
        mkdir -p data
        gcloud storage rsync --recursive "$data" data || return
    fi
    [ -z "$bucket" ] || restore "$bucket" || return
    touch "$job/restored"
    # tpu/profile.sh asks at this port
    env AILLM_PROFILER_PORT=9012 "${settings[@]+"${settings[@]}"}" "$HOME/aillm_env/bin/aillm" train "$@"
}

restore() { # URI: what an earlier job left there, if anything
    local said
    if said=$(gcloud storage ls "$1" 2>&1); then
        gcloud storage rsync --recursive "$1" "$HOME/runs"
    elif [[ $said != *"matched no objects"* ]]; then # perhaps there is a run, and beginning anew would delete it
        printf '%s\n' "$said"
        return 1
    fi
}

copy_up() { # hidden files are half-written ones
    gcloud storage rsync --recursive --delete-unmatched-destination-objects '--exclude=(.*/)?\..*' "$HOME/runs" "$1"
}

upload() {
    local pause=${AILLM_UPLOAD_SECONDS:-60}
    while alive "$job/job.pid"; do
        sleep "$pause"
        [ -e "$job/restored" ] || continue
        copy_up "$1" || echo "that did not work; trying again in $pause s"
    done
    if [ ! -e "$job/restored" ]; then # it never began: there is nothing to upload
        touch "$job/uploaded"
        return
    fi
    for _ in 1 2 3; do
        if copy_up "$1"; then touch "$job/uploaded" && return; fi
        sleep "$pause"
    done
}

status() {
    local now=idle
    if alive "$job/job.pid"; then
        now=running
    elif alive "$job/upload.pid"; then
        now=uploading
    elif [ -e "$job/upload.pid" ] && [ ! -e "$job/uploaded" ]; then
        now="upload failed"
    elif [ -e "$job/exit" ]; then
        now="exit $(cat "$job/exit")"
    elif [ -e "$job/job.pid" ]; then
        now=killed
    fi
    printf '%s\t%s\n' "$now" "$(tail -c 4000 "$job/job.log" 2>/dev/null | tr '\r' '\n' | grep '[^[:space:]]' | tail -n 1)"
}

stop() {
    alive "$job/job.pid" || return 0
    kill -TERM -- "-$(cat "$job/job.pid")"
    for _ in $(seq 300); do
        alive "$job/job.pid" || return 0
        sleep 1
    done
    kill -KILL -- "-$(cat "$job/job.pid")"
    fail "the job did not end within 300 s of SIGTERM and was killed"
}

action=${1-}
[ $# = 0 ] || shift
case $action in
    start | run | status | stop) "$action" "$@" ;;
    running) alive "$job/job.pid" ;;
    upload)
        [ $# = 1 ] || fail "upload where to?"
        in_background upload upload_now "$1"
        ;;
    upload_now) upload "$1" ;;
    *) usage >&2 && exit 2 ;;
esac
