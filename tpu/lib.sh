# shellcheck shell=bash disable=SC2034 # what looks unused here is used by the scripts
# What the scripts of this folder share: options, gcloud with --dry-run, errors that say what to do, and what was asked
# for, so that tpu/watch.sh can ask again. Kept to what bash 3.2 knows, which is macOS's.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
script=$(basename "$0")
name='' zone='' project='' dry_run=false taken=0
location=()
poll=${AILLM_TPU_POLL:-30} # seconds from one look at the cloud to the next
exec 3>&1                  # what --dry-run prints, also from within $(...)
umask 077                  # what was asked for may hold tokens

common_usage="
  NAME             of the TPU, and of its queued resource
  --zone ZONE      default: what \`gcloud config get compute/zone\` says
  --project ID     default: what \`gcloud config get project\` says
  --dry-run        print every command as it would run, and run none"

fail() {
    printf '%s: %s\n' "$script" "$*" >&2
    exit 1
}

tell() { # WORDS...: to the user, unless the output is to be commands only
    $dry_run || printf '%s\n' "$*"
}

value() { # OPTION VALUE ...: prints the value
    [ $# -ge 2 ] || fail "$1 needs a value"
    printf '%s' "$2"
}

common_option() { # of the words that are left: takes the first, and its value; sets `taken`
    taken=1
    case $1 in
        --zone) zone=$(value "$@"); taken=2 ;;
        --project) project=$(value "$@"); taken=2 ;;
        --zone=*) zone=${1#*=} ;;
        --project=*) project=${1#*=} ;;
        --dry-run) dry_run=true ;;
        -h | --help) usage && exit ;;
        -*) usage >&2 && fail "unknown option $1" ;;
        *)
            [ -z "$name" ] || fail "$1: there is a name already, $name"
            name=$1
            ;;
    esac
}

check_options() { # once all were read
    [ -n "$name" ] || { usage >&2 && fail "which TPU? Give its name"; }
    [[ $name =~ ^[a-z]([-a-z0-9]{0,60}[a-z0-9])?$ ]] ||
        fail "$name is no name of a TPU: small letters, digits and hyphens, a letter first, at most 62"
    [ -z "$zone" ] || location+=("--zone=$zone")
    [ -z "$project" ] || location+=("--project=$project")
    state=${AILLM_TPU_STATE:-$HOME/.aillm_tpu}/$name # of this TPU: what was asked for, and its workers' logs
    $dry_run && return
    command -v gcloud >/dev/null || fail "gcloud is not installed: https://cloud.google.com/sdk/docs/install"
    mkdir -p "$state"
}

again() { # SCRIPT WORDS...: another script of this folder on the same TPU
    local other=$1
    shift
    if $dry_run; then set -- --dry-run "$@"; fi
    bash "$repository/tpu/$other" "$name" ${location[@]+"${location[@]}"} "$@"
}

quoted() { # WORDS...: prints them as a shell would have to read them
    local word line=''
    for word in "$@"; do
        case $word in
            '' | *[!A-Za-z0-9_./:=,@%+-]*) word=\'${word//\'/\'\\\'\'}\' ;;
        esac
        line+="${line:+ }$word"
    done
    printf '%s' "$line"
}

run() { # WORDS...: a command on this machine
    if $dry_run; then quoted "$@" >&3 && echo >&3; else "$@"; fi
}

act() { # WORDS...: `gcloud compute tpus WORDS` for this TPU's zone and project; says what to do where it fails
    set -- gcloud compute tpus "$@" ${location[@]+"${location[@]}"}
    if $dry_run; then run "$@" && return; fi
    local status
    set +e
    "$@" 2>&1 >&3 | tee "$state/error" >&2
    status=${PIPESTATUS[0]}
    set -e
    [ "$status" = 0 ] || explain
    return "$status"
}

ask() { # ANSWER WORDS...: prints what gcloud answers, nothing if there is no such thing; ANSWER is what a dry run assumes
    local answer=$1
    shift
    set -- gcloud compute tpus "$@" ${location[@]+"${location[@]}"}
    if $dry_run; then run "$@" && echo "$answer" && return; fi
    "$@" 2>"$state/error" && return
    grep -q -e NOT_FOUND -e "was not found" "$state/error" && return
    cat "$state/error" >&2
    explain
    return 1
}

explain() { # after a failure of gcloud: what to do about it
    local todo
    case $(cat "$state/error") in
        *"Quota limit"* | *QUOTA_EXCEEDED* | *"uota exceeded"*)
            todo="the project's quota for these chips is used up or zero. See it and ask for more at
https://console.cloud.google.com/iam-admin/quotas (service Cloud TPU API); quota for --spot is a separate one" ;;
        *"no more capacity"* | *RESOURCE_EXHAUSTED* | *"nsufficient capacity"*)
            todo="no such chips are free in this zone now: wait in line with --queue, or try another zone or --spot" ;;
        *SERVICE_DISABLED* | *"has not been used in project"*)
            todo="switch the API on: gcloud services enable tpu.googleapis.com${project:+ --project=$project}" ;;
        *"active account"* | *eauthentication* | *"auth login"*) todo="log in: gcloud auth login" ;;
        *PERMISSION_DENIED*)
            todo="ask the project's owner for the roles TPU Admin (roles/tpu.admin) and Service Account User" ;;
        *ALREADY_EXISTS* | *"already exists"*)
            todo="there is one of that name: see it with tpu/status.sh $name, or delete it with tpu/delete.sh $name" ;;
        *"SSH agent"*) 
            todo="several workers need your key in an agent: ssh-add ~/.ssh/google_compute_engine" ;;
        *NOT_FOUND* | *"was not found"*)
            todo="there is no $name in this zone: gcloud compute tpus tpu-vm list --zone=ZONE lists them" ;;
        *"zone"*) todo="say where: --zone ZONE, or once and for all: gcloud config set compute/zone ZONE" ;;
        *) return ;;
    esac
    printf '%s: %s\n' "$script" "$todo" >&2
}

node_state() { # READY, CREATING, PREEMPTED, ...; NONE if there is no such TPU
    local found
    found=$(ask READY tpu-vm describe "$name" '--format=value(state)') || return
    echo "${found:-NONE}"
}

queue_state() { # of the queued resource: ACTIVE, WAITING_FOR_RESOURCES, SUSPENDED, ...; NONE if there is none
    local found
    found=$(ask ACTIVE queued-resources describe "$name" '--format=value(state.state)') || return
    echo "${found:-NONE}"
}

worker_count() {
    ask 1 tpu-vm describe "$name" '--format=value(networkEndpoints.len())'
}

on_workers() { # COMMAND: runs it on every worker; what they say becomes $state/workers/0.log, 1.log, ...
    $dry_run || { rm -rf "$state/workers" && mkdir -p "$state/workers"; }
    act tpu-vm ssh "$name" --worker=all "--command=$1" "--output-directory=$state/workers"
}

remember() { # WHAT WORDS...: keeps the words for tpu/watch.sh
    local what=$1
    shift
    $dry_run || printf '%s\0' "$@" >"$state/$what"
}

recall() { # WHAT: the words that were kept, into the array `words`
    local word
    words=()
    [ -f "$state/$1" ] || return
    while IFS= read -r -d '' word; do words+=("$word"); done <"$state/$1"
}

worker_lines() { # what the workers answered last, a line each
    local log
    for log in "$state"/workers/*.log; do
        [ -e "$log" ] && printf 'worker %s: %s\n' "$(basename "$log" .log)" "$(tail -n 1 "$log")"
    done
}
