#!/usr/bin/env bash
# End what up.sh started, and remove its directory (CLUSTER_DIR, or .cluster).
# The second cluster has its directory in that of the first.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
dir=${CLUSTER_DIR:-$here/../../.cluster}

[[ -e $dir/.test-cluster ]] || exit 0
dir=$(cd "$dir" && pwd)
[[ ! -d $dir/second ]] || CLUSTER_DIR=$dir/second "$here/down.sh"
state=$dir
[[ -e $dir/short ]] && state=$(<"$dir/short")/d
export SLURM_CONF=$state/slurm.conf

# The process that a pid file names, if it is still the one that wrote it.
# (An ended one that nobody waited for has an empty command line.)
recorded() {
    local pid
    pid=$(cat "$1" 2>/dev/null) || return 0
    if tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "$state/"; then
        echo "$pid"
    fi
}

# End a process, and be sure that it has.
end() {
    local pid=$1 tries
    kill "$pid" 2>/dev/null || return 0
    for tries in {1..100}; do
        [[ -n $(tr -d '\0' 2>/dev/null <"/proc/$pid/cmdline") ]] || return 0
        ((tries < 99)) || kill -KILL "$pid" 2>/dev/null || true
        sleep 0.1
    done
}

end_recorded() {
    local pid
    pid=$(recorded "$1")
    [[ -z $pid ]] || end "$pid"
}

cancel_jobs() {
    local tries jobs
    [[ -n $(recorded "$dir/run/slurmctld.pid") ]] || return 0
    for tries in {1..60}; do
        jobs=$(timeout 10 squeue -h -a -o %A 2>/dev/null) || return 0
        [[ -n $jobs ]] || return 0
        if ((tries == 1)); then
            # shellcheck disable=SC2086  # a list of numbers
            timeout 10 scancel $jobs || true
        fi
        sleep 0.25
    done
}

# Steps and their processes that outlived the cancelling, for instance because
# a test had stopped the controller: they have our SLURM_CONF, and are a
# slurmstepd or run in a job. A shell that only uses the cluster is neither.
leftovers() {
    local proc environment title
    for proc in /proc/[0-9]*; do
        environment=$(tr '\0' '\n' 2>/dev/null <"$proc/environ") || continue
        grep -qxF "SLURM_CONF=$SLURM_CONF" <<<"$environment" || continue
        title=$(tr '\0' ' ' 2>/dev/null <"$proc/cmdline") || continue
        if [[ $title == "slurmstepd: ["* ]] || grep -q '^SLURM_JOB_ID=' <<<"$environment"; then
            echo "${proc#/proc/}"
        fi
    done
}

remove_files() {
    local link
    while read -r link; do
        [[ ! -L $link ]] || rm "$link"
    done < <(cat "$dir/links" 2>/dev/null)
    if [[ $state != "$dir" ]]; then
        rm "$state"
        rmdir "${state%/d}"
    fi
    rm -rf "$dir"
}

cancel_jobs
for file in "$dir"/run/n*.pid "$dir/run/slurmctld.pid"; do
    end_recorded "$file"
done
for pid in $(leftovers); do
    kill -KILL "$pid" 2>/dev/null || true
done
end_recorded "$dir/run/munged.pid"
remove_files
