"""How OpenMP's threads wait for each other, where several services share the cores.

By default they spin without end, and two such pools on the same cores slow each other down many times over;
a spin of 20,000 rounds is some microseconds. It must be set before torch is imported.
"""

from __future__ import annotations

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "20000"}
