#!/usr/bin/env bash
# ./run_tests.sh [--lowest] [PYTEST ARGUMENTS]: without arguments the whole suite, spread over the
# cores. --lowest: with the lowest versions that setup.py promises, without arguments the quick part.
# Paths in the arguments are relative to this folder.
set -euo pipefail
# shellcheck source=scripts/environment.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/scripts/environment.sh"

purpose=test quick=()
if [[ ${1:-} == --lowest ]]; then
    purpose=lowest quick=(-m "not slow")
    shift
fi
prepare_environment "$purpose"
cd "$root"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # threads that outnumber the cores slow all down
if (($# == 0)); then
    # At most four: each worker imports torch. By file, because fixtures are shared within files; in
    # their order, because otherwise those of few tests, which take longest, come last.
    workers=$("$PYTHON" -c 'import os; print(min(4, os.cpu_count() or 1))')
    set -- -n "$workers" --dist loadfile --no-loadscope-reorder \
        ${quick[@]+"${quick[@]}"} tests # bash 3.2: may be empty
fi
exec "$PYTHON" -m pytest "$@"
