#!/bin/bash
# Train one run over as many jobs as it needs. From the repository's root:
#     sbatch docs/slurm.sh photos --resolution 256 --out runs/photos-256
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append

# source .venv/bin/activate
# export PGGAN_CACHE=/local/$USER/pggan     # a disk of the node

stopped=
trap 'stopped=yes; kill -TERM "$training"' TERM

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node gpu \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first:29500" train.py "$@" &
training=$!
wait "$training"
code=$?

if [ "$stopped" ]; then # requeue only if SLURM ended the job, not at the end of the run or after an error
    wait "$training"    # the signal interrupted the first wait, not the training
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
