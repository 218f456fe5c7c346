#!/bin/bash
# A sweep on the nodes of a SLURM job, one Ray node each. Submit it from this checkout, after `make demo`:
#   sbatch recipes/cluster/slurm.sh recipes/nano.toml
# Given again after a time limit, it goes on where it was.
#SBATCH --job-name=quantsam
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=08:00:00
set -euo pipefail
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=6379
srun --nodes=1 --ntasks=1 -w "$head" .venv/bin/ray start --head --port=$port --num-cpus="$SLURM_CPUS_PER_TASK" --block &
sleep 20
srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$head" \
    .venv/bin/ray start --address="$head:$port" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
sleep 20
.venv/bin/quantsam sweep "$1" --runner ray --address "$head:$port" --store results.sqlite
