@echo off
rem Three stages on one dataset: frozen backbone, fine-tuning, uncertainty weighting; then inspects TEST_IMAGES if given.
rem Run again after an interruption: finished stages are skipped, the unfinished one goes on.
rem   set DATA_ROOT=data\tiles
rem   examples\train_large_dataset.bat
rem Flags of train_defect_model.py behind it go to all three stages (... train_large_dataset.bat --class_weights balanced), but for
rem what each stage sets itself: --epochs (STAGE1_EPOCHS, ...), --lr, --init_from, --save_dir (SAVE_DIR).
setlocal
cd /d "%~dp0.."

if not defined DATA_ROOT set "DATA_ROOT=data/dataset"
if not defined BACKBONE set "BACKBONE=dinov3_vitb16"
if not defined WEIGHTS set "WEIGHTS=default"
if not defined IMAGE_SIZE set "IMAGE_SIZE=512"
if not defined TILE_SIZE set "TILE_SIZE=0"
if not defined BATCH_SIZE set "BATCH_SIZE=16"
if not defined NUM_WORKERS set "NUM_WORKERS=4"
if not defined STAGE1_EPOCHS set "STAGE1_EPOCHS=30"
if not defined STAGE2_EPOCHS set "STAGE2_EPOCHS=70"
if not defined STAGE3_EPOCHS set "STAGE3_EPOCHS=20"
if not defined SAVE_DIR set "SAVE_DIR=checkpoints"
if not defined NUM_GPUS set "NUM_GPUS=1"

set LAUNCH=python
if %NUM_GPUS% GTR 1 set LAUNCH=torchrun --standalone "--nproc_per_node=%NUM_GPUS%"
set COMMON=--data_root "%DATA_ROOT%" --backbone "%BACKBONE%" --weights "%WEIGHTS%" --image_size %IMAGE_SIZE% --tile_size "%TILE_SIZE%" --batch_size "%BATCH_SIZE%" --num_workers "%NUM_WORKERS%" --resume %*

echo Stage 1 of 3: frozen backbone, %STAGE1_EPOCHS% epochs
%LAUNCH% examples/train_defect_model.py %COMMON% --epochs "%STAGE1_EPOCHS%" --freeze_backbone --lr 1e-3 --save_dir "%SAVE_DIR%/stage1_frozen"
if %errorlevel% neq 0 exit /b %errorlevel%

rem Each stage starts from the last epoch of the one before: the best one on a few validation parts may be an early, lucky one.
echo Stage 2 of 3: fine-tuning, %STAGE2_EPOCHS% epochs
%LAUNCH% examples/train_defect_model.py %COMMON% --epochs "%STAGE2_EPOCHS%" --use_dynamic_weights --lr 1e-3 --init_from "%SAVE_DIR%/stage1_frozen/last.pth" --save_dir "%SAVE_DIR%/stage2_finetune"
if %errorlevel% neq 0 exit /b %errorlevel%

echo Stage 3 of 3: uncertainty weighting, %STAGE3_EPOCHS% epochs
%LAUNCH% examples/train_defect_model.py %COMMON% --epochs "%STAGE3_EPOCHS%" --use_uncertainty_weighting --lr 5e-5 --init_from "%SAVE_DIR%/stage2_finetune/last.pth" --save_dir "%SAVE_DIR%/stage3_uncertainty"
if %errorlevel% neq 0 exit /b %errorlevel%

if not defined TEST_IMAGES exit /b 0
echo Inspecting "%TEST_IMAGES%"
python examples/inference_defect_model.py --checkpoint "%SAVE_DIR%/stage3_uncertainty/best_accuracy.pth" --image_dir "%TEST_IMAGES%" --output_dir "%SAVE_DIR%/results"
