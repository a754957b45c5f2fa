#!/usr/bin/env bash
# Three stages on one dataset: frozen backbone, fine-tuning, uncertainty weighting; then inspects TEST_IMAGES if given.
# Run again after an interruption: finished stages are skipped, the unfinished one goes on.
#   DATA_ROOT=data/tiles BACKBONE=dinov3_vitb16 bash examples/train_large_dataset.sh
# Flags of train_defect_model.py behind it go to all three stages (... train_large_dataset.sh --class_weights balanced), but for
# what each stage sets itself: --epochs (STAGE1_EPOCHS, ...), --lr, --init_from, --save_dir (SAVE_DIR).
set -euo pipefail
cd "$(dirname "$0")/.."
. examples/stoppable.sh

DATA_ROOT="${DATA_ROOT:-data/dataset}"      # dataset folder from prepare_defect_data.py
BACKBONE="${BACKBONE:-dinov3_vitb16}"
WEIGHTS="${WEIGHTS:-default}"               # default, none, or a local file
IMAGE_SIZE="${IMAGE_SIZE:-512}"             # pixels a side, or height and width: IMAGE_SIZE="256 1024"
TILE_SIZE="${TILE_SIZE:-0}"                 # for large images: longer side of a tile in original pixels; 0: whole images
BATCH_SIZE="${BATCH_SIZE:-16}"              # per GPU
NUM_WORKERS="${NUM_WORKERS:-4}"
STAGE1_EPOCHS="${STAGE1_EPOCHS:-30}"
STAGE2_EPOCHS="${STAGE2_EPOCHS:-70}"
STAGE3_EPOCHS="${STAGE3_EPOCHS:-20}"
SAVE_DIR="${SAVE_DIR:-checkpoints}"
NUM_GPUS="${NUM_GPUS:-1}"
TEST_IMAGES="${TEST_IMAGES:-}"              # folder to inspect at the end

launch=(python)
if [ "$NUM_GPUS" -gt 1 ]; then
  launch=(torchrun --standalone "--nproc_per_node=$NUM_GPUS")
fi
common=(--data_root "$DATA_ROOT" --backbone "$BACKBONE" --weights "$WEIGHTS" --image_size $IMAGE_SIZE --tile_size "$TILE_SIZE" --batch_size "$BATCH_SIZE" --num_workers "$NUM_WORKERS" --resume "$@")

echo "Stage 1 of 3: frozen backbone, $STAGE1_EPOCHS epochs"
run "${launch[@]}" examples/train_defect_model.py "${common[@]}" --epochs "$STAGE1_EPOCHS" --freeze_backbone --lr 1e-3 --save_dir "$SAVE_DIR/stage1_frozen"

# Each stage starts from the last epoch of the one before: the best one on a few validation parts may be an early, lucky one.
echo "Stage 2 of 3: fine-tuning, $STAGE2_EPOCHS epochs"
run "${launch[@]}" examples/train_defect_model.py "${common[@]}" --epochs "$STAGE2_EPOCHS" --use_dynamic_weights --lr 1e-3 --init_from "$SAVE_DIR/stage1_frozen/last.pth" --save_dir "$SAVE_DIR/stage2_finetune"

echo "Stage 3 of 3: uncertainty weighting, $STAGE3_EPOCHS epochs"
run "${launch[@]}" examples/train_defect_model.py "${common[@]}" --epochs "$STAGE3_EPOCHS" --use_uncertainty_weighting --lr 5e-5 --init_from "$SAVE_DIR/stage2_finetune/last.pth" --save_dir "$SAVE_DIR/stage3_uncertainty"

if [ -n "$TEST_IMAGES" ]; then
  echo "Inspecting $TEST_IMAGES"
  run python examples/inference_defect_model.py --checkpoint "$SAVE_DIR/stage3_uncertainty/best_accuracy.pth" --image_dir "$TEST_IMAGES" --output_dir "$SAVE_DIR/results"
fi
