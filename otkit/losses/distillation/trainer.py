"""Distillation in the Trainer of Hugging Face."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from otkit.losses.alignment import Alignment
from otkit.losses.distillation.objective import DistillationObjective


class DistillationTrainerMixin:
    """Adds a teacher to a Trainer: ``class DistillationTrainer(DistillationTrainerMixin, transformers.Trainer)``.

    Parameters
    ----------
    *args
        Arguments of the Trainer.
    teacher : Module
        A model that returns ``logits``, like the student. It is put into evaluation mode, without a cache of keys, and
        on the student's device.
    objective : DistillationObjective
        The loss. That for a causal language model is shifted with a warning, unless its `shift` is given.
    **kwargs
        Options of the Trainer.

    Raises
    ------
    ValueError
        If the inputs of a step have no labels and the objective needs them, or its fields do not fit together.

    Notes
    -----
    The loss of an update is the mean over all rows of its steps and of all processes, as that of the Trainer. A part
    that is a sum, as in `DistillationObjective.paper`, is summed over them. The progress of training sets the
    temperature of the objective.

    A batch may have, beside the inputs of the student: ``teacher_inputs``, those of a teacher with another tokenizer;
    ``spans`` and ``teacher_spans``, the two tensors of an `Alignment`. `AlignedCollator` makes all of them. A sum over
    spans is divided by the number of labels, as the Trainer counts the items of an update. Documents that are packed in
    a sequence are kept apart by ``position_ids``, which begin at 0 in each, as those of ``DataCollatorWithFlattening``.

    Examples
    --------
    >>> import torch
    >>> from otkit.losses import DistillationObjective, DistillationTrainerMixin
    >>> class Trainer:
    ...     def __init__(self, model):
    ...         self.model = model
    >>> class DistillationTrainer(DistillationTrainerMixin, Trainer):
    ...     pass
    >>> student, teacher = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    >>> trainer = DistillationTrainer(student, teacher=teacher, objective=DistillationObjective())
    >>> trainer.teacher.training
    False
    """

    def __init__(self, *args: Any, teacher: torch.nn.Module, objective: DistillationObjective, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.teacher, self.objective = teacher.eval().requires_grad_(False), objective
        config: Any = getattr(teacher, "config", None)
        if getattr(config, "use_cache", False):
            config.use_cache = False  # as the Trainer sets it: with a cache, models mix documents that are packed
        self.model_accepts_loss_kwargs = True  # the Trainer then passes num_items_in_batch, and does not divide again
        model: Any = self.model  # type: ignore[attr-defined]
        if not objective.shift_given and not objective.shift and _is_causal(model):
            objective.shifted(True)
            warnings.warn(
                f"{type(model).__name__} predicts the next token, so the objective is shifted; pass shift=True to say "
                "so, or shift=False for labels that are shifted already",
                stacklevel=2,
            )

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The objective of a step, in place of the model's own loss."""
        inputs = dict(inputs)
        labels, spans, teacher_spans = (inputs.pop(name, None) for name in ("labels", "spans", "teacher_spans"))
        teacher_inputs = inputs.pop("teacher_inputs", inputs)
        if (spans is None) != (teacher_spans is None):
            raise ValueError("a batch must have both spans and teacher_spans, or none, got one; align gives both")
        outputs = model(**inputs)
        device = outputs.logits.device
        with torch.no_grad():
            teacher_logits = self.teacher.to(device)(**teacher_inputs).logits
        if isinstance(num_items_in_batch, torch.Tensor) and num_items_in_batch.ndim:
            num_items_in_batch = num_items_in_batch.flatten()[0]  # of DataParallel, whose logits are gathered here
        loss = self.objective(
            outputs.logits,
            teacher_logits,
            labels,
            None if spans is not None else _documents(inputs.get("position_ids"), outputs.logits),
            alignment=None if spans is None else Alignment(spans, teacher_spans),
            progress=self._progress(),
            num_items_in_batch=num_items_in_batch,
        )
        if num_items_in_batch is not None:
            loss = loss * self._averaged_over()
        return (loss, outputs) if return_outputs else loss

    def _averaged_over(self) -> float:
        """The factor that makes up for the average of the gradients over processes, as in `Trainer.compute_loss`.

        With ``average_tokens_across_devices`` the Trainer passes the number of items of all processes.
        """
        args = getattr(self, "args", None)
        if not getattr(args, "average_tokens_across_devices", False):
            return 1 / max(1, getattr(args, "n_gpu", 1))  # DataParallel: the items were divided by the GPUs
        alike = getattr(self, "get_tp_size", lambda: 1)()  # processes of tensor parallelism have the same batches
        return 1 if args.n_gpu > 1 else self.accelerator.num_processes // alike  # type: ignore[attr-defined,union-attr]

    def _progress(self) -> float:
        state: Any = self.state  # type: ignore[attr-defined]
        return min(1.0, state.global_step / state.max_steps) if state.max_steps > 0 else 0.0


def _documents(positions: torch.Tensor | None, logits: torch.Tensor) -> torch.Tensor | None:
    """The numbers of packed documents, each of which begins at position 0."""
    if positions is None or logits.ndim < 3 or positions.ndim != 2 or positions.shape[-1] != logits.shape[-2]:
        return None
    return (positions == 0).cumsum(-1).clamp_min(1).expand(logits.shape[:-1])


def _is_causal(model: Any) -> bool:
    """Whether a model of transformers predicts the next token of its own input."""
    config = getattr(model, "config", None)
    if config is None or getattr(config, "is_encoder_decoder", False):
        return False
    names = [type(model).__name__]
    if not type(model).__module__.startswith("transformers."):  # a wrapper, as of adapters, says little by its own name
        names += getattr(config, "architectures", None) or []
    return any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names)
