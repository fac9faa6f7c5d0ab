"""How this package refuses; without pandas, which takes a while to import."""


class RecordError(Exception):
    """What is wrong with the records asked for: one sentence."""
