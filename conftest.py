"""Imports the package whose folder has its name: pytest would take the folder itself for the package."""

import bgrem as bgrem
