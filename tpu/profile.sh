#!/usr/bin/env bash
# Takes a profile of a job that is running.
set -euo pipefail
# shellcheck source=tpu/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<USAGE
usage: tpu/profile.sh NAME [--seconds 5] [options]

Asks the job on the first worker, which listens for that, for a trace of some seconds. It lies in ~/runs/profile there;
tpu/copy.sh brings it here, where TensorBoard with the package tensorboard-plugin-profile shows it.
$common_usage
USAGE
}

seconds=5
while [ $# -gt 0 ]; do
    case $1 in
        --seconds) seconds=$(value "$@"); shift 2 ;;
        *) common_option "$@"; shift "$taken" ;;
    esac
done
check_options
[[ $seconds =~ ^[1-9][0-9]*$ ]] || fail "--seconds $seconds: give a whole number above 0"

trace="import tensorflow as tf; tf.profiler.experimental.client.trace('localhost:9012', 'runs/profile', ${seconds}000)"
act tpu-vm ssh "$name" --worker=0 "--command=TPU_LOAD_LIBRARY=0 aillm_env/bin/python -c $(quoted "$trace")" ||
    fail "no trace was taken: does the job train already? tpu/status.sh $name says"
tell "next: tpu/copy.sh $name"
