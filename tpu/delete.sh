#!/usr/bin/env bash
# Deletes a Cloud TPU and its queued resource, and checks that nothing of them is left.
set -euo pipefail
# shellcheck source=tpu/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<USAGE
usage: tpu/delete.sh NAME [options]

Its disk goes with it: tpu/copy.sh first. Ends with an error if the TPU or its queued resource is still there, and
lists whatever else the zone holds.
$common_usage
USAGE
}

while [ $# -gt 0 ]; do common_option "$@"; shift "$taken"; done
check_options

$dry_run || rm -f "$state/create" "$state/launch" # a tpu/watch.sh that runs must not create it again

# A TPU of the queue goes with its queued resource, and cannot go without it.
status=0
queue=$(queue_state)
if [ "$queue" != NONE ]; then
    act queued-resources delete "$name" --force --quiet || status=$?
fi
node=$(node_state)
if [ "$node" != NONE ]; then
    act tpu-vm delete "$name" --quiet || status=$?
fi

names='--format=value(name.basename(),state)' queued='--format=value(name.basename(),state.state)'
nodes=$(ask '' tpu-vm list "$names") || fail "what is left could not be listed: look in the console whether $name is billing"
queue=$(ask '' queued-resources list "$queued") || fail "what is left of the queue could not be listed"
left=''
while read -r what state_now; do
    if [ "$what" = "$name" ]; then left+=" TPU $what ($state_now)"; fi
done <<<"$nodes"
while read -r what state_now; do
    if [ "$what" = "$name" ]; then left+=" queued resource $what ($state_now)"; fi
done <<<"$queue"
[ -z "$left" ] || fail "still there, and perhaps billing:$left. Run tpu/delete.sh $name again in a minute"
[ "$status" = 0 ] || fail "gcloud reported an error, but nothing of $name is left"
tell "$name: nothing is left"
if [ -n "$nodes$queue" ]; then
    tell "other TPUs and queued resources in this zone:"
    printf '%s\n' "$nodes" "$queue" | sed '/^$/d; s/^/  /'
fi
