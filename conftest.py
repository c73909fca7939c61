"""Imports packages whose folders have their names: pytest would take the folder itself for the package.

Services that tests start keep no spare trainer, which costs seconds of a core each; its tests ask for one.
"""

import os

import bgrem as bgrem
import upsampler as upsampler

os.environ.setdefault("SPARE_TRAINER", "off")
