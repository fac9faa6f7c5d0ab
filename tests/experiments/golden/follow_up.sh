#!/bin/bash
#SBATCH --job-name=ppo-table1-3-follow-up
#SBATCH --dependency=afterany:41:42
#SBATCH --output=/shared/records/studies/table1/launches/3/logs/follow-up.log
#SBATCH --partition=gpu,long
#SBATCH --account=proj-1
#SBATCH --qos=normal
#SBATCH --constraint=a100|h100
#SBATCH --time=1-00:00:00
#SBATCH --mem=16G
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --chdir=/shared/records/studies/table1/code/0123456789ab
#SBATCH --open-mode=append
#SBATCH --no-requeue
module load cuda/12.4
export NOTE="it's \"here\""
cd /shared/records/studies/table1/code/0123456789ab || exit
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" /home/me/ppo/.venv/bin/python -m experiments.study study=table1 cluster=mysite 'algo.epsilon='"'"'0.2'"'"'' cluster.follow_up=2 'records='"'"'/shared/records'"'"''
exec srun --cpus-per-task="$SLURM_CPUS_PER_TASK" /home/me/ppo/.venv/bin/python -m analysis.report table1 --records /shared/records --missing mark
