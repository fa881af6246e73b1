#!/usr/bin/env bash
# Start a Slurm cluster of six nodes on this machine, and a second one for the
# tests that disturb it; see README.md here.
#
#   CLUSTER_DIR  where everything of it is kept (default: .cluster in the checkout)
#   PYTHON       the python of a venv that shall be able to import work_queue
set -euo pipefail
umask 022
# Where the daemons are is often missing from people's.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

here=$(cd "$(dirname "$0")" && pwd)
dir=${CLUSTER_DIR:-$here/../../.cluster}
nodes=(n1 n2 n3 n4 n5 n6)

fail() {
    echo "up.sh: $1" >&2
    exit 1
}

# Print the end of a log, then give up.
fail_with_log() {
    echo "--- the end of $2:" >&2
    tail -n 30 "$2" >&2 || true
    echo "--- (down.sh removes what was started)" >&2
    fail "$1"
}

# -- What has to be there ---------------------------------------------------

install_packages() {
    local -A package=(
        [slurmctld]=slurm-wlm [slurmd]=slurm-wlm [sbatch]=slurm-wlm
        [munged]=munge [qsub]=slurm-wlm-torque [work_queue_worker]=coop-computing-tools
        [gcc]=gcc
    )
    local command missing=()
    for command in "${!package[@]}"; do
        command -v "$command" >/dev/null || missing+=("${package[$command]}")
    done
    [[ -e /usr/include/stdlib.h ]] || missing+=(libc6-dev)
    compgen -G '/usr/lib/python3/dist-packages/work_queue.py' >/dev/null || missing+=(python3-workqueue)
    ((${#missing[@]})) || return 0
    command -v apt-get >/dev/null ||
        fail "needs ${missing[*]}, and there is no apt-get here (Debian or Ubuntu) to install them."
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# Debian's work_queue is built for Debian's own python: link it into the venv
# if that is of the same version, and say so if not. down.sh removes the links.
link_work_queue() {
    local python=$1 site file version='import sys; print(*sys.version_info[:2], sep=".")'
    "$python" -c 'import work_queue' 2>/dev/null && return
    if [[ $("$python" -c "$version") != "$(/usr/bin/python3 -c "$version")" ]]; then
        echo "up.sh: Debian's work_queue is for Python $(/usr/bin/python3 -c "$version"), and $python is another"
        return
    fi
    "$python" -c 'import sys; sys.exit(sys.prefix == sys.base_prefix)' ||
        fail "PYTHON=$python is not the python of a venv."
    site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
    for file in /usr/lib/python3/dist-packages/{work_queue.py,_work_queue*.so}; do
        [[ -e $file && ! -e $site/${file##*/} ]] || continue
        ln -s "$file" "$site/"
        echo "$site/${file##*/}" >>"$dir/links"
    done
    "$python" -c 'import work_queue' || echo "up.sh: $python cannot import Debian's work_queue" >&2
}

# -- Configuration -----------------------------------------------------------

# Unix sockets (of munge, and of every job step in the spool directory) may
# have paths of 107 characters, and slurm.conf takes no blanks: where the
# directory's own path does not suit, Slurm gets it through a short link.
short_path() {
    if ((${#dir} <= 60)) && [[ $dir =~ ^[A-Za-z0-9/._-]+$ ]]; then
        echo "$dir"
        return
    fi
    local link
    link=$(mktemp -d /tmp/cluster.XXXXXX)
    chmod 711 "$link"
    ln -s "$dir" "$link/d"
    echo "$link" >"$dir/short"
    echo "$link/d"
}

# Below every system's range of ephemeral ports: else a client's connection
# could take the controller's port while a test has it stopped.
free_ports() {
    python3 - "$1" <<'PYTHON'
import random, socket, sys
free = []
for port in random.sample(range(10000, 16000), 1000):
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            continue
    free.append(port)
    if len(free) == int(sys.argv[1]):
        break
print(*free)
PYTHON
}

# Slurm can bind to any address, or to the one that the host's name stands
# for. The latter is only what we want if it is a loopback address.
own_address() {
    python3 -c 'import socket; print(socket.gethostbyname(socket.gethostname()))' 2>/dev/null || true
}

write_configuration() {
    local host address bind="" ports number
    host=$(hostname -s 2>/dev/null || hostname)
    address=$(own_address)
    if [[ $address == 127.* ]]; then
        bind="CommunicationParameters=NoCtldInAddrAny,NoInAddrAny"
    else
        address=127.0.0.1
    fi
    read -ra ports <<<"$(free_ports $((${#nodes[@]} + 1)))"

    cat >"$dir/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host($address)
SlurmctldPort=${ports[0]}
$bind
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A job that is queued again starts after the life of its credential (120 s).
AuthInfo=socket=$state/munge/socket,cred_expire=15
CredType=cred/munge

StateSaveLocation=$state/state
SlurmdSpoolDir=$state/spool/%n
SlurmctldPidFile=$state/run/slurmctld.pid
SlurmdPidFile=$state/run/%n.pid
SlurmctldLogFile=$state/log/slurmctld
SlurmdLogFile=$state/log/%n
SlurmctldDebug=verbose
SlurmdDebug=verbose

# One machine plays six, with more CPUs and memory than it may have.
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
PropagateResourceLimits=NONE
MailProg=/bin/true
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=1500

# Quick, as nobody else is waiting.
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0,bf_interval=1
# A job in the partition urgent takes the place of one in another.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
OverTimeLimit=0
KillWait=5
SlurmdTimeout=15
SlurmctldTimeout=15
# Ended jobs are soon forgotten, as tests would wait for that.
MinJobAge=5
ReturnToService=2

# Refuse what cannot run when it is submitted, rather than leave it pending.
EnforcePartLimits=ALL
JobSubmitPlugins=lua

CONF
    for number in "${!nodes[@]}"; do
        echo "NodeName=${nodes[number]} NodeHostname=$host NodeAddr=$address Port=${ports[number + 1]}" \
            "CPUs=8 RealMemory=12000 State=UNKNOWN"
        mkdir -p "$dir/spool/${nodes[number]}"
    done >>"$dir/slurm.conf"
    cat >>"$dir/slurm.conf" <<'CONF'

PartitionName=main Nodes=ALL Default=YES DefaultTime=10 MaxTime=1-0 State=UP
PartitionName=short Nodes=ALL DefaultTime=1 MaxTime=2 State=UP
PartitionName=closed Nodes=ALL DefaultTime=10 MaxTime=1-0 State=UP AllowAccounts=nobody
PartitionName=urgent Nodes=ALL DefaultTime=1 MaxTime=10 State=UP PriorityTier=10
CONF
    # Without its database, Slurm knows no accounts. A partition's DenyAccounts
    # works all the same, but the message is about partitions; this leads to the
    # one of sites that have the database.
    cat >"$dir/job_submit.lua" <<'LUA'
function slurm_job_submit(job, partitions, uid)
    if job.account == "refused" then
        return 2045 -- ESLURM_INVALID_ACCOUNT
    end
    return slurm.SUCCESS
end

function slurm_job_modify(job, record, partitions, uid)
    return slurm.SUCCESS
end
LUA
    echo "export SLURM_CONF=$state/slurm.conf" >"$dir/env.sh"
}

# -- Processes ----------------------------------------------------------------

# Daemons must not keep what the caller had in its environment, nor its files.
# down.sh knows what belongs to the cluster by SLURM_CONF, which has to stay
# last: slurmstepd writes its title over what comes before it.
start() {
    env -i PATH="$PATH" SLURM_CONF="$state/slurm.conf" "$@" </dev/null >>"$dir/log/start" 2>&1 ||
        fail_with_log "${1##*/} did not start." "$dir/log/start"
}

# The command line is compared lest a stale pid file names another's process.
runs() {
    local pid
    pid=$(cat "$dir/run/$1.pid" 2>/dev/null) || return 1
    tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "$state/"
}

all_run() {
    local name
    for name in munged slurmctld "${nodes[@]}"; do
        runs "$name" || return 1
    done
}

start_all() {
    head -c 1024 /dev/urandom >"$dir/munge/key"
    chmod 400 "$dir/munge/key"
    # --force: a checkout may be in a directory that others own or may write to.
    start munged --force --num-threads 2 --socket "$state/munge/socket" --key-file "$state/munge/key" \
        --pid-file "$state/run/munged.pid" --seed-file "$state/munge/seed" --log-file "$state/log/munged"
    start slurmctld -f "$state/slurm.conf"
    local node
    for node in "${nodes[@]}"; do
        start slurmd -N "$node" -f "$state/slurm.conf"
    done
}

all_idle() {
    [[ $(timeout 10 sinfo -h -N -p main -o %T 2>/dev/null | sort | uniq -c | xargs) == "${#nodes[@]} idle" ]]
}

wait_until_usable() {
    local end=$((SECONDS + 30))
    until all_idle; do
        ((SECONDS < end)) || {
            timeout 10 sinfo -N -l >&2 || true
            fail_with_log "the nodes are not idle after 30 s." "$dir/log/slurmctld"
        }
        sleep 0.2
    done
    timeout 30 srun --quiet -N2 -t 1 /bin/true ||
        fail_with_log "a job on two nodes does not work." "$dir/log/slurmctld"
}

# The second one is all the same, in a directory of this one's.
start_second() {
    [[ -n ${CLUSTER_IS_SECOND:-} ]] || CLUSTER_IS_SECOND=1 CLUSTER_DIR=$dir/second PYTHON="" "$here/up.sh" >/dev/null
}

# -------------------------------------------------------------------------------

((EUID == 0)) || fail "has to be run as root: Slurm's daemons and Debian's packages need it."
install_packages

if [[ -e $dir/.test-cluster ]]; then
    dir=$(cd "$dir" && pwd)
    state=$dir
    [[ -e $dir/short ]] && state=$(<"$dir/short")/d
    if all_run; then
        [[ -z ${PYTHON:-} ]] || link_work_queue "$PYTHON"
        start_second
        echo "The cluster runs already. Use it with: . $dir/env.sh"
        exit
    fi
    CLUSTER_DIR=$dir "$here/down.sh" # what is left of an earlier one
fi

mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
[[ -z $(ls -A "$dir") ]] || fail "$dir has something else in it: empty it, or set CLUSTER_DIR."
touch "$dir/.test-cluster" # lets down.sh remove the directory
mkdir "$dir"/{munge,run,log,state,spool}
state=$(short_path)
write_configuration
export SLURM_CONF=$state/slurm.conf
start_all
wait_until_usable
[[ -z ${PYTHON:-} ]] || link_work_queue "$PYTHON"
start_second
echo "The cluster is up. Use it with: . $dir/env.sh"
