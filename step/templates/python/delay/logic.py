"""The event time is the one that the message begins with, in milliseconds since 1970, before a comma."""

# As many nanoseconds as the platform counts.
LAST = 2**64 - 1


def time(payload: bytes) -> int:
    text = payload.decode()
    milliseconds, comma, _ = text.partition(",")
    if not comma:
        raise ValueError(f"no time before a comma: {text}")
    time = int(milliseconds) * 1_000_000
    if not 0 <= time <= LAST:
        raise ValueError(f"not a time in milliseconds: {milliseconds}")
    return time
