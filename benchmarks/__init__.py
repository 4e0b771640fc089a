"""What nbflow costs, as ratios against its peers in the same run: `python -m benchmarks [SCENARIO ...] [--json FILE]`.

Each contestant of a scenario runs once a round, in random order; a ratio is the median of same-round ratios. Machines
are shared and noisy, so read the ratios, not the microseconds. Peers are pinned in `requirements.txt`; one that is not
installed is reported as missing and never made up.
"""

from __future__ import annotations

__all__: list[str] = []
