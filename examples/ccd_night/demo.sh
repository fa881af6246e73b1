#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Reduces a simulated night with bps: makes a Butler repository, runs the
# pipeline and looks at what came out. Prints each command first.
#
# Usage: demo.sh [DIRECTORY]
#   DIRECTORY  new directory for everything that is made; by default one with
#              the date and time in its name below ./demo
# The Python interpreter is $PYTHON, by default python3.

set -euo pipefail

fail() {
    printf 'demo.sh: %s\n' "$*" >&2
    exit 1
}

# Print a command as one can type it, then run it.
run() {
    printf '\n$'
    printf ' %q' "$@"
    printf '\n'
    "$@"
}

# Print and do: export NAME=VALUE.
set_variable() {
    printf '$ export %s=%q\n' "$1" "$2"
    export "$1=$2"
}

check_tools() {
    local tool
    for tool in bps butler pipetask "$python"; do
        command -v "$tool" >/dev/null ||
            fail "the command '$tool' is not on the PATH; activate the environment which has lsst-ctrl-bps-parsl"
    done
    "$python" -c 'import lsst.ctrl.bps.parsl' 2>/dev/null ||
        fail "$python cannot import lsst.ctrl.bps.parsl; install lsst-ctrl-bps-parsl in the environment of bps"
}

if (($# > 1)) || [[ ${1-} == -* ]]; then
    fail "usage: demo.sh [DIRECTORY], a new directory for everything that is made"
fi
python=${PYTHON:-python3}
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
work=${1:-demo/$(date +%Y%m%dT%H%M%S)}
[[ $work == /* ]] || work=$PWD/$work
[[ $here$work != *[[:space:]]* ]] || fail "BPS cannot work with a space in a path: $here, $work"
[[ ! -e $work ]] || fail "$work already exists; give a directory which does not"
check_tools
mkdir -p -- "$work" || fail "cannot make the directory $work"
work=$(cd -- "$work" && pwd -P)
SECONDS=0

set_variable CCD_NIGHT_DIR "$here"
set_variable CCD_NIGHT_WORK "$work"
set_variable PYTHONPATH "$here/python${PYTHONPATH:+:$PYTHONPATH}"
set_variable BPS_WMS_SERVICE_CLASS lsst.ctrl.bps.parsl.ParslService

run "$python" "$here/make_repo.py" "$work"
run bps submit "$here/bps.yaml" | tee "$work/submit.out"
run_id=$(sed -n 's/^Run Id: //p' "$work/submit.out" | tail -n 1)
[[ -n $run_id ]] || fail "bps submit did not print a run ID"

run bps report --hist 1
run bps report --id "$run_id"

# The submit directory is <work>/submit/<output collection>/<time>; see bps.yaml.
submit_dir=$(sed -n 's/^Submit dir: //p' "$work/submit.out")
output=${submit_dir#"$work/submit/"}
output=${output%/*}
run butler query-datasets "$work/repo" stars coadd --collections "$output"
run "$python" "$here/check_stars.py" "$work/repo" "$output"

printf '\nAll of it took %d seconds. The results are in %s\n' "$SECONDS" "$work"
