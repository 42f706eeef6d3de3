#!/usr/bin/env bash
set -euo pipefail
# shellcheck source=scripts/environment.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/scripts/environment.sh"

usage() {
    cat <<'TEXT'
Fine-tunes a pre-trained model for classification and tests it on several views of each clip.

  ./run_finetune.sh                     the demo: starts from the model that ./run_pretrain.sh left
                                        in runs/demo, leaves everything in runs/demo-finetune
  ./run_finetune.sh CONFIG [OVERRIDES]  a recipe (YAML) on all GPUs of this machine, for example
                                        configs/finetune/demo.yaml --run.dir runs/mine --optim.base_lr 1e-4

Needs Python 3.10 or newer. Uses the active environment if videohpm is installed in it, otherwise
makes .venv here once. A run that was interrupted continues when it is started again. Choose GPUs
with CUDA_VISIBLE_DEVICES; on several machines start torchrun yourself:
  torchrun --nnodes ... --nproc_per_node ... -m videohpm finetune --config CONFIG
All options: python -m videohpm finetune --help
TEXT
}

demo() {
    cd "$root"
    "$PYTHON" -m videohpm finetune --config configs/finetune/demo.yaml --run.dir runs/demo-finetune
    cat <<TEXT

The run is in $root/runs/demo-finetune. Look at:
  evaluation.json the result on the validation clips; a row for each in predictions.csv
  confusion.png   which classes were taken for which
  best/           the weights: videohpm predict VIDEO --model runs/demo-finetune
  metrics.jsonl   the numbers, one line for each logged step
  tensorboard/    curves:  ${PYTHON#"$root"/} -m tensorboard.main --logdir runs
TEXT
}

case ${1:-} in
    -h | --help) usage ;;
    "")
        [[ -d $root/runs/demo ]] ||
            fail "there is no pre-trained model in $root/runs/demo; run ./run_pretrain.sh first"
        prepare_environment run
        demo
        ;;
    -*) fail "the first argument must be a config (YAML), not $1; see ./run_finetune.sh --help" ;;
    *)
        [[ -f $1 ]] || fail "no config $1; recipes are in $root/configs/finetune"
        prepare_environment run
        launch finetune --config "$@"
        ;;
esac
