"""Fast from compressed: kernels for zeros and few values, and the choice among them by timing."""

from tersor.run.deploy import deploy, plan_of
from tersor.run.deployed import Deployed
from tersor.run.plan import LayerPlan, Machine, Plan, read_plan

__all__ = ["Deployed", "LayerPlan", "Machine", "Plan", "deploy", "plan_of", "read_plan"]
