"""Losses for training loops, as modules of PyTorch, and what goes with them."""

from otkit.losses.assignment import PRESETS, assign
from otkit.losses.distillation import DistillationObjective, SoftTargetLoss
from otkit.losses.features import GaussianFeatureLoss
from otkit.losses.prototypes import AssignmentQueue, Prototypes, koleo
from otkit.losses.sigma import SigmaLoss, SwappedPredictionLoss
from otkit.losses.sinkd import SinKDLoss
from otkit.losses.sinkhorn import SinkhornLoss
from otkit.losses.trainer import DistillationTrainerMixin
from otkit.losses.usage import Usage, prototype_usage
from otkit.losses.vocabulary import MultiLevelOTLoss, ULDLoss, VocabOTLoss
from otkit.losses.vocabulary_cost import VocabularyCost

__all__ = [
    "PRESETS",
    "AssignmentQueue",
    "DistillationObjective",
    "DistillationTrainerMixin",
    "GaussianFeatureLoss",
    "MultiLevelOTLoss",
    "Prototypes",
    "SigmaLoss",
    "SinKDLoss",
    "SinkhornLoss",
    "SoftTargetLoss",
    "SwappedPredictionLoss",
    "ULDLoss",
    "Usage",
    "VocabOTLoss",
    "VocabularyCost",
    "assign",
    "koleo",
    "prototype_usage",
]
