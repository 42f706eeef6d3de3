#!/usr/bin/env bash
# Everything that has to be seen on a GPU, in one command:
#
#   benchmarks/gpu.sh [--out FOLDER] [--tiny] [PART...]
#
# Parts take at most nine minutes each; a part whose result is in FOLDER (benchmarks/results/gpu) is
# not done again, so a call that was cut off is simply repeated. Results are a JSON file a part, and
# a README.md with tables. Without a GPU, or with --tiny, the sizes are those of a test of this
# script. Uses the Python of $PYTHON, else the active one if it has torch, else makes .venv.
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
out=$root/benchmarks/results/gpu tiny=() parts=()
while (($#)); do
    case $1 in
        --out) out=$2 && shift ;;
        --tiny) tiny=(--tiny) ;;
        -*) sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 2 ;;
        *) parts+=("$1") ;;
    esac
    shift
done

if [[ -z ${PYTHON:-} ]]; then
    if python3 -c 'import torch' 2>/dev/null; then
        PYTHON=python3
    else
        # shellcheck source=scripts/environment.sh
        . "$root/scripts/environment.sh"
        prepare_environment test
    fi
fi
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$out"
if ((${#parts[@]} == 0)); then
    parts=(tests stages compile memory resume step-small step-base step-large)
fi
limit=()
if command -v timeout >/dev/null; then limit=(timeout 540); fi
status=0
for part in "${parts[@]}"; do
    if [[ -s $out/$part.json ]]; then
        echo "$part: done before"
        continue
    fi
    echo "$part"
    ${limit[@]+"${limit[@]}"} "$PYTHON" "$root/benchmarks/gpu.py" "$part" --out "$out" \
        ${tiny[@]+"${tiny[@]}"} || { status=1 && echo "$part: failed"; }
done
"$PYTHON" "$root/benchmarks/gpu_table.py" "$out"
exit "$status"
