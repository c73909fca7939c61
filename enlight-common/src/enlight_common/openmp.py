"""How OpenMP's threads wait for each other, where several services share the cores.

By default they spin without end, and two such pools on the same two cores were seen to slow a picture of
the tiny model from 1 s to 100 s. With none (PASSIVE alone) it took 2.5 s even on idle cores, with a spin of
20,000 rounds, some microseconds, 0.82 s against 0.80 s. It must be set before torch is imported.
"""

from __future__ import annotations

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "20000"}
