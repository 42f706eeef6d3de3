# shellcheck shell=bash
# Sourced by run_pretrain.sh, run_finetune.sh, run_tests.sh and .ci/run under `set -euo pipefail`.
# Needs bash 3.2 and Python 3.10 or newer, nothing else.
#
#   root                            the checkout
#   prepare_environment run|test    sets PYTHON to an interpreter that has what videohpm needs
#                                   to run, or its tests
#   prepare_environment lowest      the same for its tests, in $root/.venv-lowest: the lowest
#                                   versions that setup.py promises to work with
#   launch ARGUMENTS...             becomes python -m videohpm ARGUMENTS, on all GPUs here

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "$(basename -- "$0"): $*"
    exit 2
}

# Is videohpm installed beside the Python $1, with everything it needs to $2 (run or test)?
# Read from the installed packages' metadata, because importing them all takes ten seconds.
has_videohpm() {
    [[ -x $1 ]] || return 1
    (cd / && "$1" - "$2") >/dev/null 2>&1 <<'PYTHON'
import importlib.metadata as metadata
import importlib.util
import sys

from packaging.requirements import Requirement

assert sys.version_info >= (3, 10)
assert importlib.util.find_spec("videohpm")
for line in metadata.requires("videohpm"):
    need = Requirement(line)
    if need.marker is None or need.marker.evaluate({"extra": sys.argv[1]}):
        assert need.specifier.contains(metadata.version(need.name), prereleases=True), line
PYTHON
}

# Prints the newest Python on the path that can make a virtual environment with pip in it; the
# oldest for the lowest versions.
find_python() {
    local candidate version best="" best_version=0
    for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
        version=$("$candidate" -c 'import ensurepip, sys, venv
print(sys.version_info[0] * 1000 + sys.version_info[1])' 2>/dev/null) || continue
        ((version >= 3010)) || continue
        if [[ $1 == lowest ]]; then version=$((-version)); fi
        if [[ -z $best ]] || ((version > best_version)); then
            best=$candidate best_version=$version
        fi
    done
    [[ -n $best ]] || fail "no Python 3.10 or newer with venv and pip found; install one (on" \
        "Debian and Ubuntu: python3 and python3-venv), or activate an environment with videohpm"
    printf '%s\n' "$best"
}

# pip's own words go to a log; of them the terminal sees one line for each package it fetches.
install_into() {
    local venv=$1 log=$1/install.log what
    case $2 in
        run) what=(-e .) ;;
        test) what=(-e ".[test]") ;;
        lowest)
            (cd "$root" && "$venv/bin/python" scripts/lowest.py) >"$venv/lowest.txt"
            what=(-r "$venv/lowest.txt" -e .)
            ;;
    esac
    say "Installing videohpm into $venv (a few minutes)"
    if ! (cd "$root" && "$venv/bin/python" -m pip install --progress-bar off \
        --disable-pip-version-check "${what[@]}") 2>&1 | tee "$log" |
        sed -n -e 's/^Collecting \([A-Za-z0-9._-]*\).*/    \1/p' \
            -e 's/^Installing collected packages.*/    unpacking/p' >&2; then
        grep -E '^ *(ERROR|error)' "$log" >&2 || tail -n 20 "$log" >&2
        say "The installation failed: all that pip said is in $log"
        exit 1
    fi
}

# Makes or completes a virtual environment. Two files in it tell how far it is: `videohpm-unfinished` lies
# there from the first moment to the last of the first installation, so that what an interruption
# leaves is thrown away; `videohpm-installed` holds what was installed, from where.
prepare_venv() {
    local venv=$1 purpose=$2 wanted=$3 python
    if [[ -e $venv/videohpm-unfinished ]]; then
        say "Removing $venv: its installation was interrupted"
        rm -rf -- "$venv"
    fi
    if [[ ! -e $venv ]]; then
        python=$(find_python "$purpose")
        say "Making $venv with $("$python" --version)"
        mkdir -p -- "$venv"
        : >"$venv/videohpm-unfinished"
        "$python" -m venv "$venv" || fail "$python could not make $venv"
    elif [[ ! -e $venv/videohpm-installed && $purpose != lowest ]] &&
        has_videohpm "$venv/bin/python" "$purpose"; then
        printf '%s\n' "$wanted" >"$venv/videohpm-installed" # made by hand, and complete
        return
    fi
    install_into "$venv" "$purpose"
    printf '%s\n' "$wanted" >"$venv/videohpm-installed"
    rm -f -- "$venv/videohpm-unfinished"
}

is_prepared() {
    local venv=$1 wanted=$2 installed=""
    [[ -x $venv/bin/python && ! -e $venv/videohpm-unfinished ]] || return 1
    [[ -e $venv/videohpm-installed ]] && read -r installed <"$venv/videohpm-installed"
    # What the tests need holds what the program needs.
    [[ $installed == "$wanted" || $installed == "test ${wanted#run }" ]]
}

prepare_environment() {
    local purpose=$1 active=${VIRTUAL_ENV:-${CONDA_PREFIX:-}} venv=$root/.venv wanted
    if [[ $purpose == lowest ]]; then active="" venv=$root/.venv-lowest; fi
    if [[ -n $active && ! $active -ef $venv ]]; then
        if has_videohpm "$active/bin/python" "$purpose"; then
            PYTHON=$active/bin/python
            return
        fi
        say "The active environment $active lacks what videohpm needs to $purpose:" \
            "using $venv instead"
    fi
    PYTHON=$venv/bin/python
    # A checkout that was moved is installed again: an editable install names its folder.
    wanted="$purpose $(cat "$root/setup.py" "$root/pyproject.toml" | cksum) $root"
    if is_prepared "$venv" "$wanted"; then return; fi
    (
        # A second script waits here for the first (where the system has flock).
        if command -v flock >/dev/null; then flock 9; fi
        if is_prepared "$venv" "$wanted"; then exit 0; fi
        prepare_venv "$venv" "$purpose" "$wanted" # not after || or &&: errexit would be off in it
    ) 9<"$root/setup.py"
}

launch() {
    local gpus
    gpus=$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')
    if ((gpus > 1)); then
        # Not torchrun: it ends with 1 whatever the run ended with.
        exec "$PYTHON" -m videohpm.launch "$gpus" "$@"
    fi
    exec "$PYTHON" -m videohpm "$@"
}
