"""Where packs train: this machine's cores or SLURM's nodes."""
