"""The text of each message in capital letters."""


def upper(payload: bytes) -> bytes:
    return payload.decode().upper().encode()
