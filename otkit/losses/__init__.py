"""Losses for training loops, as modules of PyTorch, and their helpers."""

from otkit.losses.alignment import Alignment, align
from otkit.losses.assignment.assign import PRESETS, assign
from otkit.losses.assignment.prototypes import AssignmentQueue, Prototypes, koleo
from otkit.losses.assignment.sigma import SigmaLoss, SwappedPredictionLoss
from otkit.losses.assignment.usage import Usage, prototype_usage
from otkit.losses.coupling import Coupling, coupled
from otkit.losses.distillation.collator import AlignedCollator
from otkit.losses.distillation.features import GaussianFeatureLoss
from otkit.losses.distillation.multilevel import MultiLevelOTLoss
from otkit.losses.distillation.objective import DistillationObjective
from otkit.losses.distillation.sinkd import SinKDLoss
from otkit.losses.distillation.soft_targets import SoftTargetLoss
from otkit.losses.distillation.trainer import DistillationTrainerMixin
from otkit.losses.distillation.vocabulary import ULDLoss, VocabOTLoss
from otkit.losses.distillation.vocabulary_cost import VocabularyCost
from otkit.losses.distillation.vocabulary_map import VocabularyMap
from otkit.losses.head import Head
from otkit.losses.matching import match
from otkit.losses.sinkhorn import SinkhornLoss
from otkit.losses.stochastic import doubly_stochastic
from otkit.losses.topk.entries import TopK
from otkit.losses.topk.files import read_topk, write_topk

__all__ = [
    "PRESETS",
    "AlignedCollator",
    "Alignment",
    "AssignmentQueue",
    "Coupling",
    "DistillationObjective",
    "DistillationTrainerMixin",
    "GaussianFeatureLoss",
    "Head",
    "MultiLevelOTLoss",
    "Prototypes",
    "SigmaLoss",
    "SinKDLoss",
    "SinkhornLoss",
    "SoftTargetLoss",
    "SwappedPredictionLoss",
    "TopK",
    "ULDLoss",
    "Usage",
    "VocabOTLoss",
    "VocabularyCost",
    "VocabularyMap",
    "align",
    "assign",
    "coupled",
    "doubly_stochastic",
    "koleo",
    "match",
    "prototype_usage",
    "read_topk",
    "write_topk",
]
