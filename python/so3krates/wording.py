"""Words of messages."""


def counted(count: int, thing: str) -> str:
    """A number of things, as in "1 frame" and "2 frames"."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
