#!/usr/bin/env bash
# Builds the Python environment in which TensorFlow runs on TPUs; see usage below.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: bash tpu/setup_vm.sh [--local] [--jax] [DIR]

Builds a virtual environment in DIR with this repository and the packages that work together on a TPU:
tensorflow-tpu and libtpu as the extra "tpu" of setup.py pins them, and tensorflow-text without its dependency on the
package tensorflow, which would overwrite the files of tensorflow-tpu. Running it again brings DIR up to date.

  DIR       default: ~/aillm_env, with --local build/tpu_env
  --local   on a machine without a TPU, to try the environment: adds the test tools
  --jax     adds JAX, as the extra "preflight" of setup.py pins it; needs Python 3.11 or newer

tpu/setup.sh runs it on all workers of a Cloud TPU.
USAGE
}

fail() {
    echo "setup_vm.sh: $*" >&2
    exit 1
}

local=false directory='' extras=(tpu) oldest=10
for argument in "$@"; do
    case $argument in
        --local) local=true extras+=(test) ;;
        --jax) oldest=11 extras+=(preflight) ;;
        -h | --help) usage && exit ;;
        -*) usage >&2 && fail "unknown option $argument" ;;
        *) directory=$argument ;;
    esac
done
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if $local; then directory=${directory:-$repository/build/tpu_env}; else directory=${directory:-$HOME/aillm_env}; fi
[ "$(uname -sm)" = "Linux x86_64" ] || fail "libtpu exists for Linux on x86-64 only, this is $(uname -sm)"

find_python() { # the first Python that tensorflow-tpu has wheels for and that can make environments
    local candidate
    for candidate in python3.11 python3.12 python3.13 python3.10 python3; do
        if "$candidate" -c "import ensurepip, sys; sys.exit(not (3, $oldest) <= sys.version_info[:2] <= (3, 13))" \
            2>/dev/null; then
            echo "$candidate" && return
        fi
    done
    return 1
}

if ! python=$(find_python); then
    package=python3-venv
    [ "$oldest" = 10 ] || package=python3.$oldest-venv
    how="sudo apt-get update && sudo apt-get install -y $package"
    if $local || ! sudo -n true 2>/dev/null; then
        fail "no Python 3.$oldest to 3.13 with the module venv: on Debian and Ubuntu run $how"
    fi
    # The images of TPU VMs update themselves after the first boot and hold apt's lock meanwhile.
    sudo apt-get -o DPkg::Lock::Timeout=600 update -q
    sudo apt-get -o DPkg::Lock::Timeout=600 install -y -q "$package"
    python=$(find_python) || fail "no Python 3.$oldest to 3.13 with the module venv, even after: $how"
fi

wanted() { # requirements of a distribution and its extras, without those that bring the package tensorflow along
    "$directory/bin/python" -I - "$@" <<'PYTHON'
import importlib.metadata
import sys

from pip._vendor.packaging.requirements import Requirement

name, *extras = sys.argv[1:]
for text in importlib.metadata.requires(name):
    requirement = Requirement(text)
    if requirement.name not in ("tensorflow", "tensorflow-text", "keras-nlp", "keras-hub") and (
        not requirement.marker or any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    ):
        requirement.marker = None
        print(requirement)
PYTHON
}

install() { # its complaint that aillm_tf wants the package tensorflow is no problem: see above
    "$directory/bin/python" -m pip install -qqq --disable-pip-version-check --log "$directory/setup.log" "$@" ||
        fail "pip could not install $*. The end of $directory/setup.log:
$(tail -n 20 "$directory/setup.log")"
}

echo "environment $directory with $("$python" --version): some minutes"
[ -x "$directory/bin/python" ] || "$python" -m venv "$directory"
install "pip>=23" "setuptools>=68"
install --no-deps --no-build-isolation --editable "$repository"
install --no-deps "tensorflow-text==2.20.1" keras-hub keras-nlp
# shellcheck disable=SC2046 # one word a requirement: none of them has spaces
install $(wanted aillm_tf "${extras[@]}") $(wanted keras-hub)

status=0
"$directory/bin/aillm" doctor || status=$?
echo "activate it with: source $directory/bin/activate"
exit "$status"
