"""How many steps a compiled call takes, so that Ctrl-C and the progress bar are answered."""

import jax

# A call lasts about so long.
CHUNK_SECONDS = 0.25
# Processes that share a mesh must all make the same calls, and their clocks differ: there calls
# double to so many steps.
TOGETHER = 1024


def paced(steps: int, taken: int, seconds: float) -> int:
    """Steps of the next call, from what this one of `steps` took: ten times as many at most."""
    if jax.process_count() > 1:
        return min(2 * steps, TOGETHER)
    pace = seconds / max(1, taken)
    return max(1, min(10 * steps, int(CHUNK_SECONDS / pace)))
