#!/usr/bin/env bash
# A real Slurm of one node on this machine, with two pretended GPUs: munge, slurmctld and slurmd, as root, without systemd.
#   cluster.sh install | up FOLDER | down FOLDER
#   cluster.sh controller FOLDER | node FOLDER        start slurmctld or slurmd again, after it was killed
# All that it writes lies in FOLDER, but for links to its configuration in /etc/slurm: jobs lose SLURM_CONF on the way.
set -euo pipefail
folder=${2:-}
host=$(hostname -s)

until_true() { # SECONDS COMMAND
  for _ in $(seq $(($1 * 10))); do
    if eval "$2" >/dev/null 2>&1; then return; fi
    sleep 0.1
  done
  echo "not so after $1 s: $2" >&2
  return 1
}

configure() {
  mkdir -p "$folder"/{state,spool,log} /etc/slurm
  # slurmd tells a job its CUDA_VISIBLE_DEVICES only for character devices: two more of what /dev/null is.
  for gpu in 0 1; do mknod -m 666 "$folder/gpu$gpu" c 1 3; done
  echo "NodeName=$host Name=gpu File=$folder/gpu[0-1]" >"$folder/gres.conf"
  # No cgroups are asked for below, but slurmd wants a plugin that can do without; its name has changed.
  version=$(slurmd -V | grep -oE '[0-9]+\.[0-9]+' | head -1 | tr -d .)
  if [ "$version" -ge 2302 ]; then plugin=disabled; else plugin=cgroup/v1; fi
  echo "CgroupPlugin=$plugin" >"$folder/cgroup.conf"
  # More cores and memory than there are: jobs ask for what a study may need, and these need little.
  # cred_expire is how long a requeued job waits.
  cat >"$folder/slurm.conf" <<END
ClusterName=pretended
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld
SlurmdLogFile=$folder/log/slurmd
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SlurmdParameters=config_overrides
MailProg=/bin/true
MinJobAge=3600
KillWait=5
SlurmdTimeout=15
ReturnToService=2
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=16 RealMemory=64000 Gres=gpu:2
PartitionName=all Nodes=$host Default=YES DefMemPerCPU=500
END
  for name in slurm gres cgroup; do ln -sfn "$folder/$name.conf" "/etc/slurm/$name.conf"; done
}

case ${1:-} in
  install)
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge
    ;;
  up)
    if [ -e /etc/slurm/slurm.conf ]; then
      echo "this machine has a Slurm already: /etc/slurm/slurm.conf" >&2
      exit 1
    fi
    configure
    if ! munge -n | unmunge >/dev/null 2>&1; then
      install -d -o munge -g munge /run/munge
      setpriv --reuid=munge --regid=munge --clear-groups munged --force
      cp /run/munge/munged.pid "$folder/munged.pid"
    fi
    "$0" controller "$folder"
    "$0" node "$folder"
    ;;
  controller)
    slurmctld
    until_true 60 "scontrol ping | grep 'is UP'"
    ;;
  node)
    slurmd -N "$host"
    until_true 60 "sinfo -h -o %t | grep -xE 'idle|mix|alloc|comp'" # of the jobs that waited for it, some may run
    ;;
  down)
    for name in slurmd slurmctld munged; do
      pid=$(cat "$folder/$name.pid" 2>/dev/null) || continue
      kill "$pid" || continue
      until_true 20 "! kill -0 $pid"
    done
    for name in slurm gres cgroup; do
      if [ "$(readlink "/etc/slurm/$name.conf")" = "$folder/$name.conf" ]; then rm "/etc/slurm/$name.conf"; fi
    done
    ;;
  *)
    echo "usage: $0 install | up FOLDER | down FOLDER | controller FOLDER | node FOLDER" >&2
    exit 2
    ;;
esac
