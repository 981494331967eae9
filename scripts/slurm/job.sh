# What the job scripts of this folder share; they source it in the folder of the clone. Needs bash 4.4.
#
# SLURM tells the script, not its tasks, that the limit of the job is near (--signal=B:USR1@90), so that the script knows
# why they stop; srun passes the signal on to them. scancel, preemption and the limit itself send TERM to script and tasks.
# srun's exit code is the highest of its tasks, or 128 + the signal by which one of them ended. Where one ends with an
# error, the others get TERM (--kill-on-bad-exit) and, KillWait later, KILL: so 130 or 137 may hide the code of the first.

IDLE=3                    # jobs in a row that bring nothing new, after which no other one is asked for
told="" running="" heard=0 # why the tasks stop: limit, or end; srun; signals so far

job=$SLURM_JOB_ID # of an array the task alone: its first task has the number of them all
if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
idle=.${SLURM_JOB_NAME//\//-}-$job.idle # in the folder of runs, $out: how many jobs in a row, and what they found

note() { printf 'job       %s\n' "$*"; }
refuse() {
    printf 'job       error: %s\n' "$*"
    exit 2
}

on_limit() {
    told=limit heard=$((heard + 1))
    note "the limit of the job is near: its tasks are told to stop"
    if [ -n "$running" ]; then kill -USR1 "$running"; fi
}

on_end() { # the limit itself, if the tasks did not stop ahead of it; else somebody means it
    heard=$((heard + 1))
    local now
    printf -v now '%(%s)T' -1
    if [ "$told" != limit ] || [ "$now" -lt "${SLURM_JOB_END_TIME:-$((now + 1))}" ]; then told=end; fi
}

trap on_limit USR1
trap on_end TERM

if [[ $(declare -p FLAGS 2>/dev/null) == "declare --"* ]]; then refuse "FLAGS is to be a bash array: FLAGS=(--flag value)"; fi

if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -f .venv/bin/activate ]; then source .venv/bin/activate; fi

# The environment of the tasks: srun asks for its cores anew since SLURM 22.05; all meet at the place that Lightning takes.
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi
if [ -z "${MASTER_ADDR:-}" ]; then MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1); fi
export MASTER_ADDR MASTER_PORT="${MASTER_PORT:-$((15000 + SLURM_JOB_ID % 10000))}"

# value_of FLAG OTHERWISE WORD ..: what the last FLAG among the words is given.
value_of() {
    local flag=$1 value=$2 previous="" word
    shift 2
    for word; do
        if [ "$previous" = "$flag" ]; then value=$word; fi
        if [ "${word#"$flag="}" != "$word" ]; then value=${word#"$flag="}; fi
        previous=$word
    done
    printf '%s\n' "${value/#\~\//$HOME/}"
}

# run PROGRAM FLAG ..: one process of it in every task of the job; sets code.
run() {
    if [ -z "$ID" ]; then refuse "ID is to be the id of a run: ID=faces"; fi
    code=130
    if [ -n "$told" ]; then return; fi
    note "$job, start $((${SLURM_RESTART_COUNT:-0} + 1)): ${SLURM_NTASKS:-1} x $1 on $SLURM_JOB_NODELIST for $ID"
    srun --kill-on-bad-exit=1 python "$@" &
    running=$!
    if [ -n "$told" ]; then kill -USR1 "$running"; fi # it came between these two
    local before
    while :; do # a signal to this script ends `wait`, not srun
        before=$heard
        wait "$running"
        code=$?
        if [ "$heard" = "$before" ]; then break; fi
    done
    running=""
}

# finish CODE: no other job.
finish() {
    rm -f -- "$out/$idle"
    exit "$1"
}

# conclude FILE ..: another job if that may help. The files are what changes whenever the work has gone on; $out is set.
conclude() {
    if [ "$told" = end ]; then
        note "exit code $code, and ended from outside: no other job is asked for; the same sbatch goes on"
        finish "$code"
    elif [ "$code" -ne 0 ] && [ "$code" -ne 75 ] && [ "$code" -lt 128 ]; then
        note "exit code $code, which another job would not mend: see the lines above"
        finish "$code"
    fi
    local found count=0 before=""
    found=$(stat -c "%n %s %y" -- "$@" 2>/dev/null | cksum)
    if [ -f "$out/$idle" ]; then { read -r count && read -r before; } <"$out/$idle"; fi
    if [ "$found" != "$before" ]; then count=0; fi
    if [ "$count" -ge "$IDLE" ]; then
        note "exit code $code, and nothing new in $IDLE jobs: no other one is asked for"
        finish "$((code ? code : 1))"
    fi
    mkdir -p -- "$out"
    printf '%s\n' "$((count + 1))" "$found" >"$out/$idle.new" && mv -- "$out/$idle.new" "$out/$idle"
    note "exit code $code, not finished: job $job goes back into the queue"
    if ! scontrol requeue "$job"; then
        note "job $job was not taken back; the same sbatch goes on"
        finish "$((code ? code : 1))"
    fi
    exit "$code"
}
