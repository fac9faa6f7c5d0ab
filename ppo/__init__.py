"""Proximal Policy Optimization (arXiv:1707.06347): one agent's mathematics, run as a pack.

Every function is written for one agent; a leading axis R of runs passes through untouched, so the same lines train one
run or thirty-three. The package knows no Hydra and no W&B: it takes typed configs and yields metrics.
"""
