#!/usr/bin/env bash
# One training run on the nodes of a Slurm cluster. Its flags are those of train_defect_model.py; from the repository:
#   DATA_ROOT=data/dataset SAVE_DIR=checkpoints/run sbatch --nodes=2 examples/train_slurm.sh --epochs 30 --lr 1e-3
# Five minutes before the time limit the run saves its state and goes back into the queue, where it goes on; cancelled
# (scancel) or preempted, it saves its state, too. Flags after sbatch win over the lines below.
#SBATCH --job-name=defect-training
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"

DATA_ROOT="${DATA_ROOT:-data/dataset}"      # dataset folder from prepare_defect_data.py, which every node sees
SAVE_DIR="${SAVE_DIR:-checkpoints/run}"     # likewise
BACKBONE="${BACKBONE:-dinov3_vitb16}"
BATCH_SIZE="${BATCH_SIZE:-16}"              # per GPU
NUM_WORKERS="${NUM_WORKERS:-6}"             # loading processes per GPU; a node has --cpus-per-task for all of them
GPUS_PER_NODE="${GPUS_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}"

nodes="$(scontrol show hostnames "$SLURM_JOB_NODELIST")"
first_node="${nodes%%$'\n'*}" # not through head, which may leave before scontrol has written all
rendezvous=(--nnodes "$SLURM_JOB_NUM_NODES" --nproc_per_node "$GPUS_PER_NODE" --rdzv_backend c10d
  --rdzv_endpoint "$first_node:$((20000 + SLURM_JOB_ID % 10000))" --rdzv_id "$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}")

export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=240 # seconds that torchrun gives its processes to save
srun --kill-on-bad-exit=1 torchrun "${rendezvous[@]}" examples/train_defect_model.py \
  --data_root "$DATA_ROOT" --save_dir "$SAVE_DIR" --backbone "$BACKBONE" --batch_size "$BATCH_SIZE" \
  --num_workers "$NUM_WORKERS" --device cuda --resume "$@" &
training=$!
# srun passes SIGTERM on to all nodes, where training takes it as the wish to save and leave.
time_is_up=""
trap 'time_is_up=yes; kill -TERM "$training"' USR1
trap : TERM # scancel tells the nodes itself; this shell only waits for them
status=0
wait "$training" || status=$?
while kill -0 "$training" 2>/dev/null; do # a signal ended the wait, not the training
  status=0
  wait "$training" || status=$?
done
if [ -n "$time_is_up" ] && [ "$status" -ne 0 ]; then
  echo "the time limit is near: saved, and back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
