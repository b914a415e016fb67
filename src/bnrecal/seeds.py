"""Independent seeds, derived from one."""

import hashlib


def derive_seed(seed: int, *parts: object) -> int:
    """An independent 63-bit seed for each (seed, parts)."""
    digest = hashlib.sha256(":".join(map(str, (seed, *parts))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
