"""Noise and bias of each rung's policy gradient: the command, what is played, the rungs, their statistics."""
