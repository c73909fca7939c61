"""Imports packages whose folders have their names: pytest would take the folder itself for the package."""

import bgrem as bgrem
import upsampler as upsampler
