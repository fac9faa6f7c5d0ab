#!/bin/bash
#SBATCH --job-name=ppo-table1-3-0-1a2b3c4d
#SBATCH --array=0-272
#SBATCH --output=/shared/records/studies/table1/launches/3/logs/0+%a.log
#SBATCH --signal=USR1@120
#SBATCH --time=04:00:00
#SBATCH --mem=2G
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --chdir=/shared/records/studies/table1/code/0123456789ab
#SBATCH --open-mode=append
#SBATCH --requeue
cd /shared/records/studies/table1/code/0123456789ab || exit
exec srun --cpus-per-task="$SLURM_CPUS_PER_TASK" /home/me/ppo/.venv/bin/python -m experiments.jobs.task /shared/records/studies/table1/launches/3 "$SLURM_ARRAY_TASK_ID"
