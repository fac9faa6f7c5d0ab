"""Blocks of documents that a command writes: each stands between a mark with the command's name and END."""

END = "<!-- end of what it writes -->\n"


def replaced(text: str, mark: str, block: str) -> str:
    """A document with `block` between the line `mark` and the next END. ValueError unless each mark is there once."""
    before, found, rest = text.partition(mark)
    _, end, after = rest.partition(END)
    if not found or not end or text.count(mark) > 1:
        raise ValueError(f"the document needs the line {mark.strip()} once, and after it {END.strip()}")
    return f"{before}{mark}\n{block.strip()}\n\n{END}{after}"
