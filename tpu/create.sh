#!/usr/bin/env bash
# Creates a Cloud TPU: at once, as spot, or through the queue.
set -euo pipefail
# shellcheck source=tpu/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<USAGE
usage: tpu/create.sh NAME --topology KIND:SHAPE [--spot] [--queue] [--valid-until 6h] [options]

  --topology       as for \`aillm tpu preflight\`: v5e:2x4, v6e:2x4, v5p:2x2x1, v4:2x2x1, ...
  --spot           cheaper, and may be taken away at any time: tpu/watch.sh then starts anew
  --queue          wait in Google's queue for chips instead of failing where none are free
  --valid-until    with --queue: give up after that time, such as 6h
$common_usage
USAGE
}

topology='' spot=() queue=false until=()
given=("$@")
while [ $# -gt 0 ]; do
    case $1 in
        --topology) topology=$(value "$@"); shift 2 ;;
        --spot) spot=(--spot) && shift ;;
        --queue) queue=true && shift ;;
        --valid-until) until=("--valid-until-duration=$(value "$@")"); shift 2 ;;
        *) common_option "$@"; shift "$taken" ;;
    esac
done
check_options
[ -n "$topology" ] || fail "which chips? Give --topology, such as v5e:2x4"
[ ${#until[@]} = 0 ] || $queue || fail "--valid-until is for --queue"

# Google names a v5e or v6e by its chips, a v4 or v5p by its TensorCores, of which a chip has two; only the shapes below
# go with such a name.
kind=${topology%%:*} shape=${topology#*:}
case $kind in
    v5e) family=v5litepod image=v2-alpha-tpuv5-lite cores=1 ;;
    v6e) family=v6e image=v2-alpha-tpuv6e cores=1 ;;
    v5p) family=v5p image=v2-alpha-tpuv5 cores=2 ;;
    v4) family=v4 image=tpu-ubuntu2204-base cores=2 ;;
    *) fail "unknown TPU $kind in $topology: v4, v5e, v5p and v6e are known, as in v5e:2x4" ;;
esac
case $kind in
    v5e | v6e) shapes="1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16" ;;
    *) shapes="2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8" ;;
esac
case " $shapes " in
    *" $shape "*) ;;
    *) fail "a $kind has no shape $shape here: choose from $shapes" ;;
esac
chips=$((${shape//x/*}))
if [ "$chips" -gt 8 ] || { [ "$cores" = 2 ] && [ "$chips" -gt 4 ]; }; then
    tell "note: $topology has several hosts; recipes train across them with JAX, not tried on a pod yet, see tpu/README.md"
fi
accelerator=$family-$((cores * chips))

remember create "${given[@]}"
if ! $queue; then
    act tpu-vm create "$name" "--accelerator-type=$accelerator" "--version=$image" ${spot[@]+"${spot[@]}"}
    tell "$name is ready and billing: next tpu/setup.sh $name; tpu/delete.sh $name ends the billing"
    exit
fi

act queued-resources create "$name" "--node-id=$name" "--accelerator-type=$accelerator" "--runtime-version=$image" \
    ${spot[@]+"${spot[@]}"} ${until[@]+"${until[@]}"}
before=''
while :; do
    now=$(queue_state)
    [ "$now" = "$before" ] || tell "queued resource $name: $now"
    before=$now
    case $now in
        ACTIVE) break ;;
        FAILED | SUSPENDED | NONE)
            reason=$(ask '' queued-resources describe "$name" '--format=value(state.failedData.error.message)') || true
            fail "the queue gave no TPU ($now${reason:+: $reason}): tpu/delete.sh $name, then ask again, perhaps elsewhere" ;;
    esac
    sleep "$poll"
done
tell "$name is ready and billing: next tpu/setup.sh $name; tpu/delete.sh $name ends the billing"
