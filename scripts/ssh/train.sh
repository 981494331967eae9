#!/bin/bash
# One training on several machines, over ssh alone:
#
#     scripts/ssh/train.sh HOST [HOST ..] -- --preset digits --wb_id two [flags of train.py]
#
# Give it in the folder of the clone, which lies at the same path on all hosts, as does the Python that `python` is here.
# --devices N is the number of processes on every host; without it, one for each GPU. They meet on the first host, by the
# name that is given here, at port 29500 (MASTER_PORT=N takes another). ssh must not ask for a password. --wb_id names the
# run, which goes on if it was begun. If a process is lost, torchrun starts all of them again, three times at most.
# Ctrl-C, or an error on one host, stops all as it stops one training: resumably. Once more does not wait for that. What
# train.py refuses ends all at once, without further attempts; that line is said again at the end, exit code 2.
# Needs bash 4.4.

refuse() {
    echo "train.sh: error: $*" >&2
    exit 2
}

hosts=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    hosts+=("$1")
    shift
done
if [ ${#hosts[@]} -eq 0 ] || [ $# -lt 2 ]; then
    echo "usage: scripts/ssh/train.sh HOST [HOST ..] -- FLAGS OF train.py" >&2
    exit 2
fi
shift
devices=gpu previous="" named=""
for word; do
    case $previous in
        --devices) devices=$word ;;
        --wb_id) named=$word ;;
    esac
    case $word in
        --devices=*) devices=${word#--devices=} ;;
        --wb_id=*) named=${word#--wb_id=} ;;
    esac
    previous=$word
done
if [ -z "$named" ]; then refuse "--wb_id is needed: the processes must agree on the name of the run"; fi
if [ ! -f train.py ]; then refuse "there is no train.py in $PWD: give this in the folder of the clone"; fi
python=$(command -v python) || refuse "there is no python here: activate the environment"

# For the shell of a host, whatever that is: every word in single quotes.
quoted() {
    local word
    for word; do printf "'%s' " "${word//\'/\'\\\'\'}"; done
}

# What a host does: torchrun, until that ends or its standard input does, which is when the one who started it has gone.
# shellcheck disable=SC2016
remote='cd "$1" || exit 2
if [ -n "$2" ] && (: <>"/dev/tcp/127.0.0.1/$2") 2>/dev/null; then
    echo "train.sh: error: port $2 of this host is taken: MASTER_PORT=N before the command takes another"
    exit 2
fi
shift 2
case " $* " in *" --nproc-per-node gpu "*)
    if ! "$1" -c "import sys, torch; sys.exit(not torch.cuda.is_available())" </dev/null; then
        echo "train.sh: error: this host has no GPU: give --devices N, a number of processes"
        exit 2
    fi
esac
"$@" </dev/null &
child=$!
trap "kill -TERM $child" TERM HUP INT
while kill -0 "$child" 2>/dev/null; do
    read -r -t 0.3 _
    if [ $? -eq 1 ]; then kill -TERM "$child" 2>/dev/null; break; fi
done
wait "$child"
code=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done
exit "$code"'

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkfifo "$folder/held"
exec 9<>"$folder/held" # nothing is ever written; closing it ends the standard input of all

told="" code=0
end_all() { exec 9>&-; }
stop() {
    if [ -n "$told" ]; then kill -KILL "${pids[@]}" "${readers[@]}" 2>/dev/null; fi
    told=yes code=130
    end_all
}
trap stop INT TERM HUP

prefixed() { # to the end, whatever is signalled to the group
    trap '' INT TERM HUP
    local line said=""
    while IFS= read -r line || [ -n "$line" ]; do
        printf '%s: %s\n' "$1" "$line"
        case $line in
            "train.py: error: "*) said=${line#train.py: error: } ;;
            "train.sh: error: "*) printf '%s\n' "${line#train.sh: error: }" >>"$folder/refused" ;;
            *"failed (exitcode: 2)"*) # torchrun; a process that was lost is told as an error too, with another code
                if [ -n "$said" ]; then printf '%s\n' "$said" >>"$folder/refused"; fi ;;
        esac
    done
}

port=${MASTER_PORT:-29500} pids=() readers=()
for i in "${!hosts[@]}"; do
    # c10d: with fixed node ranks torchrun's store survives a restart, and so do addresses of processes that are gone
    command=("$python" -m torch.distributed.run --nnodes ${#hosts[@]} --nproc-per-node "$devices" --max-restarts 3
        --rdzv-backend c10d --rdzv-endpoint "${hosts[0]##*@}:$port" --rdzv-id "$named"
        --rdzv-conf "is_host=$((i == 0))" --local-addr "${hosts[i]##*@}" train.py "$@" --num_nodes ${#hosts[@]} --resume auto)
    serves=$([ "$i" -ne 0 ] || echo "$port") # where the others come, on the first host
    mkfifo "$folder/$i"
    prefixed "${hosts[i]}" <"$folder/$i" 9>&- &
    readers+=($!)
    ssh -o BatchMode=yes -o ServerAliveInterval=15 "${hosts[i]}" "$(quoted bash -c "$remote" host "$PWD" "$serves" "${command[@]}")" \
        <"$folder/held" >"$folder/$i" 2>&1 9>&- & # in the background it does not see Ctrl-C
    pids+=($!)
done

running=("${pids[@]}")
while [ ${#running[@]} -gt 0 ]; do
    sleep 0.2
    if [ "$code" -eq 0 ] && [ -s "$folder/refused" ]; then
        code=2
        end_all
    fi
    for i in "${!running[@]}"; do
        if kill -0 "${running[i]}" 2>/dev/null; then continue; fi
        wait "${running[i]}"
        ended=$?
        unset "running[i]"
        if [ "$ended" -ne 0 ] && [ "$code" -eq 0 ]; then
            code=$ended
            echo "train.sh: ${hosts[i]} ended with $ended; the others are told to stop" >&2
            end_all
        fi
    done
done
wait "${readers[@]}"
if [ -s "$folder/refused" ] && [ -z "$told" ]; then
    code=2
    echo "train.sh: error: $(head -n 1 "$folder/refused")" >&2
fi
if [ -n "$told" ]; then echo "train.sh: stopped; the same command goes on" >&2; fi
exit "$code"
