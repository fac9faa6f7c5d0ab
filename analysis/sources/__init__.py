"""Where runs come from: one module per kind of place."""
