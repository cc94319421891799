#!/usr/bin/env bash
# Starts a recipe on all workers of a Cloud TPU, in the background.
set -euo pipefail
# shellcheck source=tpu/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<USAGE
usage: tpu/launch.sh NAME [--bucket gs://B/RUN] [--data gs://B/DATA] [--env KEY=VALUE]... [options] -- RECIPE OPTIONS...

Runs \`aillm train RECIPE OPTIONS...\` in ~/aillm_tf on every worker; it goes on after this script has ended.

  --bucket   a folder for this TPU alone: begin with the runs that are there, and make it the same as ~/runs every minute.
             Without it a preemption loses the run
  --data     copied to ~/aillm_tf/data first, so that options such as --data.train data/train.tsv find it
  --env      a variable of the job, such as HF_TOKEN=...; kept in ~/.aillm_tpu, readable by you alone

A TPU of several hosts trains with Keras on JAX (KERAS_BACKEND=jax), one of one host with TensorFlow.
$common_usage
USAGE
}

bucket='' data='' settings=() given=("$@")
while [ $# -gt 0 ]; do
    case $1 in
        --bucket) bucket=$(value "$@"); shift 2 ;;
        --data) data=$(value "$@"); shift 2 ;;
        --env) settings+=(--env "$(value "$@")"); shift 2 ;;
        --) shift && break ;;
        *) common_option "$@"; shift "$taken" ;;
    esac
done
check_options
[ $# -gt 0 ] || fail "which recipe? Give it after --, as in: tpu/launch.sh $name -- classification --data.train data/train.tsv"
for uri in "$bucket" "$data"; do
    case $uri in
        '' | gs://?*) ;;
        *) fail "$uri is no folder of a bucket: gs://BUCKET/FOLDER" ;;
    esac
done
for setting in ${settings[@]+"${settings[@]}"}; do
    case $setting in
        --env | [A-Za-z_]*=*) ;;
        *) fail "--env $setting: give KEY=VALUE" ;;
    esac
done

workers=$(worker_count)
[ -n "$workers" ] || fail "there is no TPU $name in this zone: tpu/create.sh $name makes one"
# TensorFlow feeds all hosts from one process, which our input pipeline cannot do; and it must leave the chips to JAX.
[ "$workers" = 1 ] || settings=(--env KERAS_BACKEND=jax --env TPU_LOAD_LIBRARY=0 ${settings[@]+"${settings[@]}"})

remember launch "${given[@]}"
start=(bash aillm_tf/tpu/worker.sh start)
[ -z "$data" ] || start+=(--data "$data")
[ -z "$bucket" ] || start+=(--bucket "$bucket")
if ! on_workers "$(quoted "${start[@]}" ${settings[@]+"${settings[@]}"} -- "$@")"; then
    cat "$state"/workers/*.log >&2 2>/dev/null || true
    fail "the job did not start on all workers: tpu/watch.sh shows where; tpu/setup.sh $name mends a missing environment"
fi
if [ -n "$bucket" ]; then # the first worker alone writes runs
    act tpu-vm ssh "$name" --worker=0 "--command=$(quoted bash aillm_tf/tpu/worker.sh upload "$bucket")"
else
    tell "note: without --bucket the run is lost with the TPU's disk"
fi
tell "started on $workers worker(s): tpu/watch.sh $name follows it"
