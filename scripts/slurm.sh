#!/usr/bin/env bash
#SBATCH --job-name=worldgpt
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=worldgpt-%j.txt
# Train on several nodes: sbatch --nodes 8 scripts/slurm.sh scripts/train_worldgpt.py --preset gaia --data ... --output /shared/worldgpt
# Run it from the repository, with data, tokenizer and output on a disk that all nodes see, and .venv made by scripts/environment.sh.
# Three minutes before its time is up every training gets SIGTERM, saves and ends; the job then queues itself again and goes on with
# --resume. CONFIG=configs/accelerate/nodes_ddp.yaml copies the model to every GPU instead of sharding it.
set -euo pipefail
config=${CONFIG:-configs/accelerate/nodes_fsdp.yaml}
gpus=${SLURM_GPUS_ON_NODE:-8}
host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=$((${SLURM_CPUS_PER_TASK:-$gpus} / gpus))
. .venv/bin/activate

status=0
srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch --config_file "$0" --num_machines "$SLURM_NNODES" --machine_rank "$SLURM_NODEID" \
    --num_processes "$1" --main_process_ip "$2" --main_process_port 29500 "${@:3}" --resume' \
    "$config" $((gpus * SLURM_NNODES)) "$host" "$@" || status=$?
if [ "$status" -eq 143 ]; then # saved after SIGTERM
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
