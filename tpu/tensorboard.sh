#!/usr/bin/env bash
# Shows the TensorBoard of the job on this machine.
set -euo pipefail
# shellcheck source=tpu/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<USAGE
usage: tpu/tensorboard.sh NAME [--port 6006] [options]

Runs TensorBoard on the first worker over ~/runs, and a tunnel to it: open http://localhost:6006. Ctrl-C ends both.
$common_usage
USAGE
}

port=6006
while [ $# -gt 0 ]; do
    case $1 in
        --port) port=$(value "$@"); shift 2 ;;
        *) common_option "$@"; shift "$taken" ;;
    esac
done
check_options

tell "http://localhost:$port once the lines below say so; Ctrl-C ends it"
# A terminal (-t), so that Ctrl-C reaches TensorBoard. It must not touch the chips, which the job holds.
act tpu-vm ssh "$name" --worker=0 "--ssh-flag=-t -L $port:localhost:$port" \
    "--command=TPU_LOAD_LIBRARY=0 aillm_env/bin/tensorboard --logdir runs --port $port"
