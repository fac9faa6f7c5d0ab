#!/bin/bash
#SBATCH --job-name=ppo-table1-3-1001-1a2b3c4d
#SBATCH --array=0-6%20
#SBATCH --output=/shared/records/studies/table1/launches/3/logs/1001+%a.log
#SBATCH --signal=USR1@300
#SBATCH --partition=gpu,long
#SBATCH --account=proj-1
#SBATCH --qos=normal
#SBATCH --constraint=a100|h100
#SBATCH --time=1-00:00:00
#SBATCH --mem=16G
#SBATCH --gres=lscratch:100
#SBATCH --gpus=a100:1
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --chdir=/shared/records/studies/table1/code/0123456789ab
#SBATCH --open-mode=append
#SBATCH --no-requeue
module load cuda/12.4
export NOTE="it's \"here\""
cd /shared/records/studies/table1/code/0123456789ab || exit
exec srun --cpus-per-task="$SLURM_CPUS_PER_TASK" /home/me/ppo/.venv/bin/python -m experiments.jobs.task /shared/records/studies/table1/launches/3 "$((SLURM_ARRAY_TASK_ID + 1001))"
