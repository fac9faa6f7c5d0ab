#!/usr/bin/env bash
# A real, throw-away SLURM on one machine, to try launches on and to test against.
#
#   slurm/dev-cluster.sh up     [DIR]   start what is not running; installs SLURM where apt and root allow it
#   slurm/dev-cluster.sh env    [DIR]   prints what to eval: export SLURM_CONF=…
#   slurm/dev-cluster.sh status [DIR]   daemons, nodes, queue; exit code 0 only if everything runs
#   slurm/dev-cluster.sh kick   [DIR]   start requeued jobs now: SLURM 22.05 holds them for two minutes
#   slurm/dev-cluster.sh down   [DIR]   cancel everything and stop the daemons; DIR and its logs stay
#   slurm/dev-cluster.sh with   DIR COMMAND…   a fresh one for as long as the command runs
#
# DIR is /tmp/ppo-slurm-USER if nothing is said. Nodes n1 … nN share this machine; each claims CPUs, memory and GPUs that
# do not exist, and has its own name as a feature: --constraint=n2. Partition `low` is the default and gives way (its jobs
# are requeued) to `high`. No systemd, no cgroups, no accounting. Not for use by several people: jobs run as the user who
# started it. Read at `up`:
#   PPO_SLURM_NODES=5  PPO_SLURM_GPUS=2 (per node)  PPO_SLURM_ARRAY=1001 (MaxArraySize)  PPO_SLURM_PORT=16917 (and N more)
#
# Exit code 77: SLURM is not here and cannot be installed.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin

command=${1:-}
ME=$(id -un)
DIR=${2:-/tmp/ppo-slurm-$ME}
[[ $command =~ ^(up|env|status|kick|down|with)$ ]] || { sed -n '2,/^set/{/^#/p}' "$0"; exit 2; }
mkdir -p "$DIR"/{etc,run,log,dev}
DIR=$(cd "$DIR" && pwd -P)
export SLURM_CONF=$DIR/etc/slurm.conf
NODES=${PPO_SLURM_NODES:-5} GPUS=${PPO_SLURM_GPUS:-2} PORT=${PPO_SLURM_PORT:-16917}

say() { printf 'dev-cluster: %s\n' "$*" >&2; }

patiently() { # SECONDS COMMAND…: until it succeeds
    local end=$((SECONDS + $1)); shift
    until "$@" >>"$DIR/log/waiting" 2>&1; do ((SECONDS < end)) || return 1; sleep 0.1; done
}

pid_of() { # NAME: of a live daemon that was started here. A pid file may outlive its process, so its program is compared.
    local pid; pid=$(cat "$DIR/run/$1.pid" 2>/dev/null) && [[ $(cat "/proc/$pid/comm" 2>/dev/null) == "${1%%-*}" ]] && echo "$pid"
}

install_slurm() {
    local program missing=()
    for program in slurmctld slurmd sbatch munged; do command -v $program >/dev/null || missing+=($program); done
    ((${#missing[@]})) || return 0
    if ((UID)) || ! command -v apt-get >/dev/null; then
        say "SLURM is not installed (${missing[*]}), and only root can install it, with apt"; exit 77
    fi
    say "installing SLURM (${missing[*]} not found)"
    # Exit code 101 keeps packages from starting daemons of their own.
    local policy=/usr/sbin/policy-rc.d ours=
    [[ -e $policy ]] || { ours=1; printf '#!/bin/sh\nexit 101\n' >$policy; chmod 755 $policy; }
    apt-get update -qq >"$DIR/log/apt" 2>&1 &&
        DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends \
            slurmctld slurmd slurm-client munge >>"$DIR/log/apt" 2>&1 || failed=1
    [[ -z $ours ]] || rm $policy
    [[ -z ${failed:-} ]] || { say "apt could not install it: $(tail -1 "$DIR/log/apt")"; exit 77; }
}

write_configuration() {
    local i
    # SLURM takes any character device for a GPU, and then hands it out: CUDA_VISIBLE_DEVICES is 0 or 1 in each task.
    for ((i = 0; i < GPUS; i++)); do ln -sfn /dev/null "$DIR/dev/nvidia$i"; done
    echo "Name=gpu File=$DIR/dev/nvidia[0-$((GPUS - 1))]" >"$DIR/etc/gres.conf"
    : >"$DIR/etc/plugstack.conf"
    {
        cat <<END
ClusterName=dev
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$PORT
SlurmUser=$ME
SlurmdUser=$ME
AuthType=auth/munge
AuthInfo=socket=$DIR/run/munge.socket
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/run/slurmctld.pid
SlurmdPidFile=$DIR/run/slurmd-%n.pid
SlurmctldLogFile=$DIR/log/slurmctld
SlurmdLogFile=$DIR/log/slurmd-%n
PlugStackConfig=$DIR/etc/plugstack.conf
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=100000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=20
InactiveLimit=0
KillWait=10
MinJobAge=3600
MaxArraySize=${PPO_SLURM_ARRAY:-1001}
GresTypes=gpu
DefMemPerCPU=500
END
        for ((i = 1; i <= NODES; i++)); do
            echo "NodeName=n$i Feature=n$i NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$((PORT + i))" \
                "CPUs=8 RealMemory=16000 Gres=gpu:$GPUS State=UNKNOWN"
        done
        echo "PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=10 DefaultTime=10 State=UP"
        echo "PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF DefaultTime=10 State=UP"
    } >"$SLURM_CONF"
}

start_munge() {
    [[ -s $DIR/etc/munge.key ]] || (umask 077 && head -c 128 /dev/urandom >"$DIR/etc/munge.key")
    rm -f "$DIR/run/munge.socket"*
    munged --force --num-threads=2 --key-file="$DIR/etc/munge.key" --socket="$DIR/run/munge.socket" \
        --pid-file="$DIR/run/munged.pid" --log-file="$DIR/log/munged" --seed-file="$DIR/state/munge.seed" \
        2>>"$DIR/log/munged.stderr"
    patiently 10 munge -n -S "$DIR/run/munge.socket"
}

all_nodes_ready() { [[ $(sinfo -hNp low -o %t | grep -cE '^(idle|mix|alloc|comp)$') == $(nodes | wc -l) ]]; }

nodes() { sed -n 's/^NodeName=\([^ ]*\) .*/\1/p' "$SLURM_CONF"; }

up() {
    local node
    install_slurm
    mkdir -p "$DIR"/{state,spool}
    pid_of slurmctld >/dev/null || write_configuration
    pid_of munged >/dev/null || start_munge || { say "munged did not start; see $DIR/log"; exit 1; }
    pid_of slurmctld >/dev/null || slurmctld -f "$SLURM_CONF" 2>>"$DIR/log/slurmctld.stderr"
    patiently 20 scontrol ping || { say "slurmctld does not answer; see $DIR/log/slurmctld"; exit 1; }
    for node in $(nodes); do
        mkdir -p "$DIR/spool/$node"
        pid_of "slurmd-$node" >/dev/null || slurmd -f "$SLURM_CONF" -N "$node" 2>>"$DIR/log/slurmd.stderr"
    done
    if ! patiently 5 all_nodes_ready; then # one that died before stays down until it is told otherwise
        for node in $(nodes); do scontrol update nodename="$node" state=resume 2>>"$DIR/log/waiting" || true; done
        patiently 30 all_nodes_ready || { say "nodes are not ready:"; sinfo -NR >&2; exit 1; }
    fi
    say "up: $(nodes | wc -l) nodes; eval \"\$($0 env $DIR)\""
}

status() {
    local name code=0
    for name in munged slurmctld $(nodes | sed s/^/slurmd-/); do
        pid_of "$name" >/dev/null || { echo "$name is not running"; code=1; }
    done
    ((code)) || { sinfo -N -o '%N %P %t %C %G' && squeue -o '%i %P %j %T %M %R'; }
    exit $code
}

kick() {
    # Not at once: a job that starts in the second of its requeue fails, "credential revoked".
    squeue -ht PD -o '%A %r %S' | while read -r job reason start; do
        [[ $reason == BeginTime && $start != N/A ]] && (($(date -d "$start" +%s) > $(date +%s) + 5)) || continue
        scontrol update JobId="$job" StartTime=now+3 || true # it may be gone by now
    done
}

stop() { # NAME
    local pid; pid=$(pid_of "$1") || return 0
    kill "$pid"
    patiently 10 eval "! pid_of $1" || kill -9 "$pid" || true
    rm -f "$DIR/run/$1.pid"
}

down() {
    local name pid
    if pid_of slurmctld >/dev/null; then
        scancel -u "$ME" || true
        patiently 20 eval '[[ -z $(squeue -h) ]]' || say "jobs are still there; stopping anyway"
    fi
    for name in $([[ ! -e $SLURM_CONF ]] || nodes | sed s/^/slurmd-/) slurmctld munged; do stop "$name"; done
    # A step's daemon may outlive its slurmd. Only those of this cluster: they carry the path of its configuration.
    for pid in $(pgrep -x slurmstepd || true); do
        grep -qzxF "SLURM_CONF=$SLURM_CONF" "/proc/$pid/environ" 2>/dev/null && kill -9 "$pid" || true
    done
    rm -rf "${DIR:?}"/{state,spool} # the next `up` starts with an empty queue
    say "down; logs in $DIR/log"
}

case $command in
    up) up ;;
    with) down && trap down EXIT && up && "${@:3}" ;;
    env) echo "export SLURM_CONF=$SLURM_CONF" ;;
    *) [[ $command == down || -e $SLURM_CONF ]] || { say "there is no cluster in $DIR"; exit 1; }; "$command" ;;
esac
