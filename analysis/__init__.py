"""How records become curves and tables. Reads files only: no torch, no ppo."""
