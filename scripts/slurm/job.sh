# What the job scripts of this folder share; they source it in the folder of the clone. Needs bash 4.4.
#
# SLURM tells the script, not its tasks, that the limit of the job is near (--signal=B:USR1@90), so that the script knows
# why they stop; srun passes the signal on to them. scancel, preemption and the limit itself send TERM to script and tasks.
# srun's exit code is the highest of its tasks, or 128 + a signal by which one of them ended. Where one ends with an error,
# the others get TERM (--kill-on-bad-exit) and, KillWait later, KILL: so 130 or 137 may hide the code of the first one.

IDLE=3 # jobs in a row that bring nothing new, after which no other one is asked for
told="" running="" heard=0

note() { printf 'job       %s\n' "$*"; }

on_limit() {
    told=limit heard=$((heard + 1))
    note "the limit of the job is near: its tasks are told to stop"
    [ -z "$running" ] || kill -USR1 "$running" 2>/dev/null
}

on_end() { # the limit itself, if the tasks did not stop ahead of it; else somebody means it
    heard=$((heard + 1))
    local now
    printf -v now '%(%s)T' -1
    [ "$told" = limit ] && [ "$now" -ge "${SLURM_JOB_END_TIME:-$((now + 1))}" ] || told=end
}

trap on_limit USR1
trap on_end TERM

if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -f .venv/bin/activate ]; then source .venv/bin/activate; fi

# The environment of the tasks: srun asks for its cores anew since SLURM 22.05, and all processes meet at one place.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
if [ -z "${MASTER_ADDR:-}" ]; then MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1); fi
export MASTER_ADDR MASTER_PORT="${MASTER_PORT:-$((15000 + 10#${SLURM_JOB_ID: -4}))}" # the port that Lightning takes

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
    code=130
    [ -z "$told" ] || return 0
    srun --kill-on-bad-exit=1 python "$@" &
    running=$!
    local before
    while :; do # a signal to this script ends `wait`, not srun
        before=$heard
        wait "$running"
        code=$?
        [ "$heard" != "$before" ] || break
    done
    running=""
}

# conclude FILE ..: the end of a job whose work is not finished. The files change whenever the work has gone on.
conclude() {
    local job=$SLURM_JOB_ID mark count=0 last=""
    if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
    local notes=${SLURM_JOB_NAME//\//-}-$job.idle
    if [ "$told" = end ]; then
        note "ended from outside (exit code $code): no other job is asked for; the same sbatch goes on"
    elif [ "$code" -ne 0 ] && [ "$code" -ne 75 ] && [ "$code" -lt 128 ]; then
        note "exit code $code, which another job would not mend: see the lines above"
    else
        mark=$(ls -ldn --time-style=full-iso -- "$@" 2>/dev/null | cksum)
        if [ -f "$notes" ]; then { read -r count && read -r last; } <"$notes"; fi
        if [ "$mark" != "$last" ]; then count=0; fi
        count=$((count + 1))
        if [ "$count" -gt "$IDLE" ]; then
            note "exit code $code, and nothing new since $IDLE jobs: no other one is asked for"
        else
            printf '%s\n' "$count" "$mark" >"$notes.new" && mv "$notes.new" "$notes"
            note "exit code $code, not finished: job $job goes back into the queue"
            if scontrol requeue "$job"; then exit "$code"; fi
            note "job $job was not taken back; the same sbatch goes on"
            if [ "$code" -eq 0 ]; then code=1; fi
        fi
    fi
    rm -f "$notes"
    exit "$code"
}

# finish: the end of a job whose work is done.
finish() {
    local job=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}
    rm -f "${SLURM_JOB_NAME//\//-}-$job${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}.idle"
    note "finished"
    exit 0
}
