"""SLURM: a batch file that saves before its time limit and queues itself again."""
