"""How quantities are spelled for people."""


def readable_bytes(num_bytes: float) -> str:
    """Return a size with its unit, in powers of 1000: 1,234 -> 1.2 kB."""
    if num_bytes < 1000:
        return f"{num_bytes:,.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        num_bytes /= 1000
        if num_bytes < 1000:
            return f"{num_bytes:.1f} {unit}"
    return f"{num_bytes / 1000:,.1f} TB"
