#!/usr/bin/env bash
#SBATCH --job-name=worldgpt
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=worldgpt-%j.txt
# Train on several nodes: sbatch --nodes 8 scripts/slurm.sh scripts/train_worldgpt.py --preset gaia --data ... --output /shared/worldgpt
# Run it from the repository, with data, tokenizer and output on a disk that all nodes see, and .venv made by scripts/environment.sh.
# SHARD=false copies the model to every GPU (DDP) instead of sharding it over all (FSDP2).
#
# SLURM starts one process a GPU itself: a launcher in between would hide how they end, and kill them 30 seconds after SIGTERM. Five minutes
# before its time is up every training gets that signal, saves and ends with 143; the job then queues itself again and goes on with --resume.
set -euo pipefail
export ACCELERATE_USE_FSDP=${SHARD:-true} FSDP_VERSION=2
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p) # not head, which would end the pipe before all is said
export MASTER_ADDR MASTER_PORT=${MASTER_PORT:-29500} OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
. .venv/bin/activate

status=0
srun bash -c 'export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS; exec python "$@" --resume' train "$@" || status=$?
if [ "$status" -eq 143 ]; then # saved after SIGTERM
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
