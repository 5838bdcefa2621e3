#!/usr/bin/env bash
# A SLURM cluster of one node, this machine, for tests and to try things on: munged, slurmctld, slurmd; no accounting.
#
#   slurm/dev_cluster.sh install          Debian's packages (apt-get)
#   slurm/dev_cluster.sh start [FOLDER]   then: export SLURM_CONF=FOLDER/slurm.conf
#   slurm/dev_cluster.sh status [FOLDER]
#   slurm/dev_cluster.sh stop [FOLDER]    ends its jobs, too
#
# As root; a container without systemd is enough. All it writes lies in FOLDER (default /tmp/plmft-slurm). Each core
# counts as four, so that several jobs run on a small machine. Jobs in partition `high` preempt those in `low`, the
# default, which get their signal, 20 s, and their place in the queue again. A job over its memory is ended within 1 s.
set -euo pipefail
export PATH=$PATH:/usr/sbin

folder=$(realpath -m "${2:-/tmp/plmft-slurm}")
export SLURM_CONF=$folder/slurm.conf

fail() { printf 'dev_cluster.sh: %s\n' "$1" >&2; exit 1; }
living() { [ -s "$folder/$1.pid" ] && kill -0 "$(cat "$folder/$1.pid")" 2>/dev/null; }
node_state() { timeout 10 sinfo --noheader --format=%T --partition=low 2>/dev/null; }
no_jobs() { [ -z "$(timeout 10 squeue --noheader 2>/dev/null)" ]; }
ready() { [[ $(node_state) =~ ^(idle|mixed|allocated)$ ]]; }

await() { # what, for whom
    for _ in $(seq 150); do
        if "$1"; then return; fi
        sleep 0.2
    done
    fail "waited 30 s for $2 in vain; see $folder/*.log."
}

install() {
    [ "$(id -u)" = 0 ] || fail "must be run as root."
    command -v apt-get >/dev/null || fail "no apt-get here: install slurmctld, slurmd, the client programs and munge."
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y slurm-wlm munge >/dev/null
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

configure() {
    local host cpus memory
    host=$(hostname -s)
    cpus=$(($(getconf _NPROCESSORS_ONLN) * 4)) # nproc would heed OMP_NUM_THREADS
    memory=$(slurmd -C | sed -n 's/.*RealMemory=\([0-9]*\).*/\1/p') # MB
    cat >"$SLURM_CONF" <<CONF
ClusterName=plmft
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
AccountingStorageType=accounting_storage/none
# what needs cgroups, which a container rarely has, is done without
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=$((memory / cpus))
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
KillWait=5
SchedulerParameters=sched_interval=1,sched_min_interval=100000,bf_interval=1,batch_sched_delay=0
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory
PartitionName=low Nodes=$host Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=20
PartitionName=high Nodes=$host MaxTime=INFINITE PriorityTier=2 PreemptMode=OFF
CONF
}

start() {
    [ "$(id -u)" = 0 ] || fail "must be run as root: slurmd starts jobs for every user."
    for program in munged slurmctld slurmd sinfo; do
        command -v $program >/dev/null || fail "there is no $program here. Run $0 install."
    done
    mkdir -p "$folder"/{state,spool}
    if ! living munged; then
        [ -s "$folder/munge.key" ] || (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
        munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
            --log-file="$folder/munged.log" --seed-file="$folder/munge.seed" || fail "munged doesn't start."
    fi
    if ! living slurmctld; then
        configure
        slurmctld || fail "slurmctld doesn't start; see $folder/slurmctld.log."
    fi
    living slurmd || slurmd || fail "slurmd doesn't start; see $folder/slurmd.log."
    await ready "its node"
    echo "export SLURM_CONF=$SLURM_CONF"
}

stop() {
    if living slurmctld; then
        for partition in low high; do timeout 10 scancel --partition=$partition || true; done
        for _ in $(seq 100); do # KillWait, and a little
            if no_jobs; then break; fi
            sleep 0.1
        done
    fi
    for daemon in slurmd slurmctld munged; do
        if living $daemon; then kill "$(cat "$folder/$daemon.pid")"; fi
    done
    for daemon in slurmd slurmctld munged; do
        for _ in $(seq 100); do
            if ! living $daemon; then break; fi
            sleep 0.1
        done
    done
    local process
    for process in /proc/[0-9]*; do # what a daemon that was killed has left behind
        if grep -qzxF "SLURM_CONF=$SLURM_CONF" "$process/environ" 2>/dev/null &&
            { grep -qz '^SLURM_JOB_ID=' "$process/environ" || grep -qx slurmstepd "$process/comm"; } 2>/dev/null; then
            kill -KILL "${process#/proc/}" || true
        fi
    done
}

status() {
    for daemon in munged slurmctld slurmd; do
        if living $daemon; then echo "$daemon: running"; else echo "$daemon: not running"; fi
    done
    echo "node: $(node_state || true)"
    ready
}

case ${1:-} in
    install | start | stop | status) "$1" ;;
    *) fail "usage: $0 install|start|stop|status [FOLDER]" ;;
esac
