#!/usr/bin/env bash
# A sweep on a real Slurm of one node, started here and stopped at the end: one job is cancelled, the sweep ends with the
# list of failed cells and exit 1, and the same command again completes it.
#
#   apt-get update && apt-get install --no-install-recommends slurm-wlm munge     (Debian's packages; as root)
#   scripts/try_slurm.sh [PYTHON]                                                  (as root; default .venv/bin/python)
#
# Touches nothing outside a temporary folder but munge's key and socket. No accounting: a cancelled job leaves no trace
# in sacct, which is the case that is easy to get wrong.
set -euo pipefail
cd "$(dirname "$0")/.."
python="$(realpath --no-symlinks "${1:-.venv/bin/python}")"
for program in slurmctld slurmd munged sbatch squeue scancel; do
    PATH="$PATH:/usr/sbin" command -v "$program" >/dev/null || { echo "$program is missing: apt-get install slurm-wlm munge" >&2; exit 2; }
done
[ "$(id -u)" -eq 0 ] || { echo "slurmd starts jobs: run this as root" >&2; exit 2; }
export PATH="$PATH:/usr/sbin"

work="$(mktemp -d)"
export SLURM_CONF="$work/slurm.conf"
node="$(hostname -s)"
cores="$(getconf _NPROCESSORS_ONLN)"
started=()

stop() {
    scancel --user="$(id -un)" 2>/dev/null || true
    wait_for 30 sh -c '[ -z "$(squeue -h)" ]' || true  # slurmd stays as long as a job of its own runs
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait_for 15 sh -c "! kill -0 ${started[*]} 2>/dev/null" || kill -KILL "${started[@]}" 2>/dev/null || true
    rm -rf "$work"
}
trap stop EXIT

wait_for() { # seconds, command...
    local left=$((2 * $1)); shift
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1)); [ "$left" -gt 0 ] || { echo "gave up on: $*" >&2; return 1; }
        sleep 0.5
    done
}

cat > "$SLURM_CONF" <<EOF
ClusterName=one
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
SlurmctldPort=26817
SlurmdPort=26818
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait=5
NodeName=$node NodeAddr=127.0.0.1 CPUs=$cores RealMemory=$(($(free -m | awk '/^Mem:/ {print $2}') * 9 / 10)) State=UNKNOWN
PartitionName=main Nodes=$node Default=YES MaxTime=INFINITE State=UP
PartitionName=short Nodes=$node MaxTime=1 State=UP
EOF
mkdir -p "$work/state" "$work/spool"

if ! munge -n >/dev/null 2>&1; then
    mkdir -p /run/munge && chown munge: /run/munge
    runuser -u munge -- munged --foreground >"$work/munged.log" 2>&1 &
    started+=($!)
    wait_for 10 munge -n
fi
slurmctld -D >/dev/null 2>&1 &
started+=($!)
slurmd -D -N "$node" >/dev/null 2>&1 &
started+=($!)
wait_for 30 sh -c "sinfo -h -o %T | grep -qx idle" || { tail -5 "$work"/*.log >&2; exit 1; }
echo "Slurm $(slurmctld -V | awk '{print $2}') runs on $node with $cores processors, without accounting"

small='data.val_images=200 calibration.images=64 recalibration.images=64 recalibration.batch_size=32'
sweep() { # folder, further arguments...
    local folder="$1"; shift
    # a background job of a script ignores Ctrl-C, unless it is told otherwise
    # shellcheck disable=SC2086  # the settings are words
    env --default-signal=INT "$python" -m bnrecal -m +launch=slurm_cpu "hydra.sweep.dir=$folder" model=resnet18 smt.threads=2,4 recal=true,false $small "$@"
}
fail() { echo "this is not as it should be" >&2; exit 1; }
results() { find "$1" -name result.json | sort; }

out="$work/sweep"
echo; echo "== one of four jobs is cancelled (one job at a time, so that one still waits)"
sweep "$out" hydra.launcher.array_parallelism=1 > "$work/first.out" 2> "$work/first.err" &
first=$!
wait_for 120 sh -c "[ \$(squeue -h -r -t PENDING | wc -l) -ge 1 ] && [ \$(squeue -h -r | grep -vc bnrecal) -ge 4 ]"
squeue --array --format="%.8i %.9T %.30j"
cancelled="$(squeue -h -r -t PENDING -o %i | tail -1)"
scancel "$cancelled" && echo "scancel $cancelled"
status=0; wait "$first" || status=$?
grep -v '^ ' "$work/first.out"; cat "$work/first.err"
echo "exit status $status, $(results "$out" | wc -l) results"
[ "$status" -eq 1 ] && [ "$(results "$out" | wc -l)" -eq 3 ] || fail
grep -q "Slurm job $cancelled ended without a result: CANCELLED" "$work/first.err" || fail
before="$(results "$out" | xargs stat -c '%n %Y %i')"

echo; echo "== the same command again"
sweep "$out" hydra.launcher.array_parallelism=1 > "$work/second.out"
grep -v '^ ' "$work/second.out"
echo "exit status 0, $(results "$out" | wc -l) results, $(grep -c 'finished earlier' "$work/second.out") of them finished earlier"
[ "$(results "$out" | wc -l)" -eq 4 ] && [ "$(grep -c 'finished earlier' "$work/second.out")" -eq 3 ] || fail
[ "$(echo "$before" | cut -d' ' -f1 | xargs stat -c '%n %Y %i')" = "$before" ] || fail

echo; echo "== sbatch refuses: a partition that there is not"
status=0; sweep "$work/refused" hydra.launcher.partition=nowhere > "$work/refused.out" 2> "$work/refused.err" || status=$?
cat "$work/refused.err"; echo "exit status $status"
[ "$status" -eq 1 ] && ! grep -q Traceback "$work/refused.err" || fail

echo; echo "== jobs that cannot start: more time than the partition allows"
status=0; sweep "$work/stuck" hydra.launcher.partition=short > "$work/stuck.out" 2> "$work/stuck.err" || status=$?
cat "$work/stuck.err"; echo "exit status $status"
[ "$status" -eq 1 ] && grep -q "PartitionTimeLimit" "$work/stuck.err" && [ -z "$(squeue -h)" ] || fail

echo; echo "== a worker that is killed"
sweep "$work/killed" smt.threads=4 recal=true seed=0 > "$work/killed.out" 2> "$work/killed.err" &
killed=$!
wait_for 120 sh -c "squeue -h -t RUNNING | grep -q ."
wait_for 60 pgrep -f "^[^ ]*python[^ ]* -u -m submitit.core._submit $work/killed"
pkill -KILL -f "^[^ ]*python[^ ]* -u -m submitit.core._submit $work/killed"
status=0; wait "$killed" || status=$?
cat "$work/killed.err"; echo "exit status $status"
[ "$status" -eq 1 ] && ! grep -q Traceback "$work/killed.err" || fail

echo; echo "== Ctrl-C leaves the jobs running and says how to end them"
sweep "$work/interrupted" > "$work/interrupted.out" 2> "$work/interrupted.err" &
interrupted=$!
wait_for 120 sh -c "squeue -h | grep -q ."
wait_for 60 grep -q "jobs: " "$work/interrupted.out"
pkill -INT -f "python[^ ]* -m bnrecal .*$work/interrupted"
status=0; wait "$interrupted" || status=$?
cat "$work/interrupted.err"; echo "exit status $status, $(squeue -h -r | wc -l) jobs still there"
[ "$status" -eq 130 ] && grep -q scancel "$work/interrupted.err" || fail
echo; echo "all as it should be"
