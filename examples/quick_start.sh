#!/usr/bin/env bash
# From nothing to a trained model and inspected images: environment, demo data, three stages, evaluation, inspection.
# Run again, it goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
. examples/stoppable.sh
bash examples/make_environment.sh
export PATH="$PWD/.venv/bin:$PATH"

DEMO=data/demo
SAVE_DIR=checkpoints/demo
if [ ! -f "$DEMO/dataset.json" ]; then
  run python examples/prepare_defect_data.py demo --output_dir "$DEMO" --num_images 400
fi
run env DATA_ROOT="$DEMO" SAVE_DIR="$SAVE_DIR" BACKBONE=efficientnet_lite0 IMAGE_SIZE=256 BATCH_SIZE=16 NUM_WORKERS=2 STAGE1_EPOCHS=2 STAGE2_EPOCHS=10 STAGE3_EPOCHS=1 bash examples/train_large_dataset.sh --decoder multiscale
echo "Evaluating on images the model has not seen"
run python examples/evaluate_defect_model.py --checkpoint "$SAVE_DIR/stage3_uncertainty/best_accuracy.pth" --data_root "$DEMO" --split test --output "$SAVE_DIR/test_metrics.json"
run python examples/inference_defect_model.py --checkpoint "$SAVE_DIR/stage3_uncertainty/best_accuracy.pth" --image_dir "$DEMO/images" --output_dir results/demo
echo "Done. Pictures: results/demo/visualizations; table: results/demo/predictions.csv; model: $SAVE_DIR/stage3_uncertainty/best_accuracy.pth"
