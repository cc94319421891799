#!/usr/bin/env bash
# Copies the results and the logs of all workers to this machine.
set -euo pipefail
# shellcheck source=tpu/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<USAGE
usage: tpu/copy.sh NAME [--to DIR] [options]

Copies ~/runs of the first worker, which alone writes there, to DIR/runs, and the logs of all to DIR/logs.

  --to DIR         default: tpu_results/NAME
$common_usage
USAGE
}

to=''
while [ $# -gt 0 ]; do
    case $1 in
        --to) to=$(value "$@"); shift 2 ;;
        *) common_option "$@"; shift "$taken" ;;
    esac
done
check_options
to=${to:-tpu_results/$name}

run mkdir -p "$to/logs"
act tpu-vm scp "$name:runs" "$to" --recurse --worker=0 ||
    fail "nothing was copied; where the job had a bucket: gcloud storage cp --recursive gs://B/RUN $to/runs"
on_workers 'cat job/*.log' || tell "note: some logs are missing"
run cp -R "$state/workers/." "$to/logs"
tell "copied to $to"
