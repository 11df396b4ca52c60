"""Fahrenheit to Celsius."""


def to_celsius(payload: bytes) -> bytes:
    celsius = (float(payload.decode()) - 32) / 1.8
    return f"{celsius:.1f}".encode()
