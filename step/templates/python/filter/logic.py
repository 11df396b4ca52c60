"""Numbers above the limit that the pipeline gives."""

limit = 0.0


def read(configuration: dict[str, str]) -> float:
    if "limit" not in configuration:
        raise ValueError("`limit` is not set")
    return float(configuration["limit"])


def is_above(payload: bytes) -> bool:
    return float(payload.decode()) > limit
