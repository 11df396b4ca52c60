"""Numbers above the limit that the pipeline gives take the arm `high`, others the arm `low`."""

limit = 0.0


def read(configuration: dict[str, str]) -> float:
    if "limit" not in configuration:
        raise ValueError("`limit` is not set")
    return float(configuration["limit"])


def arm(payload: bytes) -> str:
    return "high" if float(payload.decode()) > limit else "low"
