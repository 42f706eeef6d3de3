#!/usr/bin/env bash
set -euo pipefail
# shellcheck source=scripts/environment.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/scripts/environment.sh"

usage() {
    cat <<'TEXT'
Pre-trains a masked autoencoder on video with Hard Patches Mining.

  ./run_pretrain.sh                     the demo: makes small videos of moving shapes, trains a tiny
                                        model on them, leaves everything in runs/demo
  ./run_pretrain.sh CONFIG [OVERRIDES]  a recipe (YAML) on all GPUs of this machine, for example
                                        configs/pretrain/demo.yaml --run.dir runs/mine --optim.base_lr 1e-4

Needs Python 3.10 or newer. Uses the active environment if videohpm is installed in it, otherwise
makes .venv here once. A run that was interrupted continues when it is started again. Choose GPUs
with CUDA_VISIBLE_DEVICES; on several machines start torchrun yourself:
  torchrun --nnodes ... --nproc_per_node ... -m videohpm pretrain --config CONFIG
All options: python -m videohpm pretrain --help
TEXT
}

demo() {
    cd "$root"
    "$PYTHON" datasets/shapes/prepare.py --out data/shapes # made once, checked later
    "$PYTHON" -m videohpm pretrain --config configs/pretrain/demo.yaml --run.dir runs/demo
    cat <<TEXT

The run is in $root/runs/demo. Look at:
  metrics.jsonl   the numbers, one line for each logged step
  pictures/       clips, what is hidden in them, and what the model makes of that
  tensorboard/    curves:  ${PYTHON#"$root"/} -m tensorboard.main --logdir runs/demo/tensorboard
Next: ./run_finetune.sh trains a classifier that starts from these weights.
TEXT
}

case ${1:-} in
    -h | --help) usage ;;
    "")
        prepare_environment run
        demo
        ;;
    -*) fail "the first argument must be a config (YAML), not $1; see ./run_pretrain.sh --help" ;;
    *)
        [[ -f $1 ]] || fail "no config $1; recipes are in $root/configs/pretrain"
        prepare_environment run
        launch pretrain --config "$@"
        ;;
esac
