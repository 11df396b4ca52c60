"""A message for each line of a message."""


def lines(payload: bytes) -> list[bytes]:
    found = (line.strip() for line in payload.decode().split("\n"))
    return [line.encode() for line in found if line]
