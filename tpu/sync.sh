#!/usr/bin/env bash
# Copies this repository to all workers, as ~/aillm_tf.
set -euo pipefail
# shellcheck source=tpu/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<USAGE
usage: tpu/sync.sh NAME [options]

The folders runs, tpu_results and build and hidden files stay here. ~/runs of the workers is kept, and is what
~/aillm_tf/runs leads to.
$common_usage
USAGE
}

while [ $# -gt 0 ]; do common_option "$@"; shift "$taken"; done
check_options

archive=${state}/aillm_tf.tgz
run tar -czf "$archive" -C "$repository" --exclude='./.*' --exclude=./runs --exclude=./tpu_results --exclude=./build --exclude=__pycache__ .
act tpu-vm scp "$archive" "$name:aillm_tf.tgz" --worker=all
# A job that runs imports from the folder that is replaced: it must end first.
busy='if bash aillm_tf/tpu/worker.sh running 2>/dev/null; then echo "a job is running here"; exit 1; fi'
unpack='rm -rf aillm_tf.new && mkdir -p runs aillm_tf.new && tar -xzf aillm_tf.tgz -C aillm_tf.new'
swap='ln -s ../runs aillm_tf.new/runs && rm -rf aillm_tf && mv aillm_tf.new aillm_tf'
on_workers "$busy; $unpack && $swap" ||
    fail "not all workers took the new code: $(run cat "$state"/workers/*.log 2>/dev/null | sort -u | tail -n 3)"
