@echo off
rem From nothing to a trained model and inspected images: environment, demo data, three stages, evaluation, inspection.
rem Run again, it goes on where it stopped. Needs Python 3.10 to 3.13 (python.org) as 'py'.
setlocal
cd /d "%~dp0.."
if exist ".venv\installed-offline" goto installed
set "FITS=import pip, sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))"
.venv\Scripts\python -c "%FITS%" >nul 2>&1 && goto install
for %%V in (3.13 3.12 3.11 3.10) do py -%%V -m venv --clear .venv >nul 2>&1 && goto install
echo error: 'py' finds no Python 3.10 to 3.13; install one from python.org 1>&2
exit /b 1
:install
echo Installing into .venv: some minutes
.venv\Scripts\python -m pip install --disable-pip-version-check -q --progress-bar on -e ".[train,offline]" || exit /b 1
type nul > ".venv\installed-offline"
:installed
set "PATH=%CD%\.venv\Scripts;%PATH%"

set "DEMO=data/demo"
set "SAVE_DIR=checkpoints/demo"
if not exist "%DEMO%/dataset.json" (
  python examples/prepare_defect_data.py demo --output_dir "%DEMO%" --num_images 400 || exit /b 1
)
set "DATA_ROOT=%DEMO%"
set "BACKBONE=efficientnet_lite0"
set "IMAGE_SIZE=256"
set "BATCH_SIZE=16"
set "NUM_WORKERS=2"
set "STAGE1_EPOCHS=2"
set "STAGE2_EPOCHS=10"
set "STAGE3_EPOCHS=1"
call examples\train_large_dataset.bat --decoder multiscale || exit /b 1
echo Evaluating on images the model has not seen
python examples/evaluate_defect_model.py --checkpoint "%SAVE_DIR%/stage3_uncertainty/best_accuracy.pth" --data_root "%DEMO%" --split test --output "%SAVE_DIR%/test_metrics.json" || exit /b 1
python examples/inference_defect_model.py --checkpoint "%SAVE_DIR%/stage3_uncertainty/best_accuracy.pth" --image_dir "%DEMO%/images" --output_dir results/demo || exit /b 1
echo Done. Pictures: results/demo/visualizations; table: results/demo/predictions.csv; model: %SAVE_DIR%/stage3_uncertainty/best_accuracy.pth
