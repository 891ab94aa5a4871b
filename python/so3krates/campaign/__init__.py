"""`so3krates kappa --run`: crystals, decks, independent runs and one report of their conductivities (docs/kappa.md)."""

from .gather import gather
from .report import write_report
from .runs import Outcome, plan_runs, run_campaign
from .settings import Campaign, CampaignError, read_campaign

__all__ = [
    "Campaign",
    "CampaignError",
    "Outcome",
    "gather",
    "plan_runs",
    "read_campaign",
    "run_campaign",
    "write_report",
]
