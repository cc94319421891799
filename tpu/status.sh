#!/usr/bin/env bash
# Says what a Cloud TPU and its job are doing.
set -euo pipefail
# shellcheck source=tpu/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<USAGE
usage: tpu/status.sh NAME [options]

Prints the state of the TPU and of its queued resource, and a line for every worker: idle, running, uploading,
exit STATUS, upload failed or killed, and the last line of its log.
$common_usage
USAGE
}

while [ $# -gt 0 ]; do common_option "$@"; shift "$taken"; done
check_options

node=$(node_state)
queue=$(queue_state)
tell "TPU $name: $node   queued resource: $queue"
if [ "$node" = READY ]; then
    act tpu-vm describe "$name" '--format=table(acceleratorType,runtimeVersion,health,createTime,schedulingConfig.spot)'
    on_workers 'bash aillm_tf/tpu/worker.sh status' || tell "not every worker answered: is it set up? tpu/setup.sh $name"
    $dry_run || worker_lines
fi
