"""mindone's thirteen schedulers, repaired where they need it, and how a run uses one."""

from latte_ms.schedulers.selection import CONFIG as CONFIG
from latte_ms.schedulers.selection import SCHEDULERS as SCHEDULERS
from latte_ms.schedulers.selection import adopt as adopt
from latte_ms.schedulers.selection import check_name as check_name
from latte_ms.schedulers.selection import create as create
from latte_ms.schedulers.selection import load as load
from latte_ms.schedulers.steps import StepPlan as StepPlan
from latte_ms.schedulers.steps import add_noise as add_noise
from latte_ms.schedulers.steps import copy_of as copy_of
from latte_ms.schedulers.steps import set_steps as set_steps
from latte_ms.schedulers.steps import step_options as step_options
from latte_ms.schedulers.steps import uses_variance as uses_variance
