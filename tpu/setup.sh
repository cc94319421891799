#!/usr/bin/env bash
# Sets all workers of a Cloud TPU up: the code, and the Python environment that works on TPUs.
set -euo pipefail
# shellcheck source=tpu/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<USAGE
usage: tpu/setup.sh NAME [options]

Copies this repository (tpu/sync.sh) and runs tpu/setup_vm.sh on every worker, some minutes. Several workers train with
Keras on JAX, so there JAX is installed too. Running it again is safe.
$common_usage
USAGE
}

while [ $# -gt 0 ]; do common_option "$@"; shift "$taken"; done
check_options

workers=$(worker_count)
[ -n "$workers" ] || fail "there is no TPU $name in this zone: tpu/create.sh $name makes one"
again sync.sh
jax=''
[ "$workers" = 1 ] || jax=' --jax'
status=0
on_workers "bash aillm_tf/tpu/setup_vm.sh$jax >setup.log 2>&1 && echo 'set up' || { tail -n 15 setup.log; exit 1; }" ||
    status=$?
if $dry_run; then exit; fi
failed=''
for ((worker = 0; worker < workers; worker++)); do
    log=$state/workers/$worker.log
    if [ "$(tail -n 1 "$log" 2>/dev/null)" != "set up" ]; then
        failed+=" $worker"
        tell "--- worker $worker, the end of its setup.log:" >&2
        cat "$log" >&2 2>/dev/null || tell "no answer: it could not be reached" >&2
    fi
done
[ -z "$failed" ] || fail "setup failed on worker$failed of $workers: mend what it says above and run tpu/setup.sh $name again"
[ "$status" = 0 ] || fail "gcloud ended with $status although all $workers workers were set up: run tpu/setup.sh $name again"
tell "$workers worker(s) set up: next tpu/launch.sh $name -- RECIPE OPTIONS"
