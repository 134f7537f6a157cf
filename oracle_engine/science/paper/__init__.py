"""The figures and tables of arXiv 2512.02826 for one's own data and models, one function each."""

from .fig2 import fig2
from .fig3 import fig3
from .fig4 import fig4
from .fig5 import fig5
from .fig6 import fig6
from .fig7 import fig7
from .fig8 import Checkpoint, fig8
from .models import as_velocity, load_model
from .quality import Quality, energy_distance
from .recipes import QUICK, RECIPES, Effort, Inputs
from .result import Curve, Panel, PaperResult, Sheet
from .small import trained
from .tables import table1, table2, table3

__all__ = [
    "QUICK",
    "RECIPES",
    "Checkpoint",
    "Curve",
    "Effort",
    "Inputs",
    "Panel",
    "PaperResult",
    "Quality",
    "Sheet",
    "as_velocity",
    "energy_distance",
    "fig2",
    "fig3",
    "fig4",
    "fig5",
    "fig6",
    "fig7",
    "fig8",
    "load_model",
    "table1",
    "table2",
    "table3",
    "trained",
]
