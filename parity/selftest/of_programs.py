"""Mistakes in the training of a port, and other spellings of the same training, as lines of the two files `training.py`."""

from __future__ import annotations

import functools

from parity.selftest.edited_training import NETWORK, TRANSFORMER, Subject, TrainingEdit
from parity.selftest.file_edit import Lines

_CLIP, _PADDLE_CLIP = "nn.utils.clip_grad_norm_(self.parameters, 0.5)", "paddle.nn.ClipGradByGlobalNorm(0.5)"
_DECAYED = "apply_decay_param_fun=lambda name: name in decayed,"
_OTHERS = '{"params": others, "weight_decay": 0.0}'
_TOKENS, _IMAGES = (
    "F.cross_entropy(flat, labels.reshape([-1]), ignore_index=0)",
    "F.cross_entropy(scores, labels, label_smoothing=0.1)",
)
_SGD = "torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)"
_MOMENTUM = "paddle.optimizer.Momentum(0.05, momentum=0.9, parameters=model.parameters(), weight_decay=5e-4)"
_IN_GROUPS = (
    'parameters=[{"params": [p for p in self.parameters if (p.name in decayed) == first]} for first in (True, False)],'
)


def _line(old: str, new: str) -> Lines:
    return ((old, new),)


def _fault(
    name: str,
    sentence: str,
    phase: str,
    cause: str,
    torch: Lines = (),
    paddle: Lines | None = None,
    subject: Subject = TRANSFORMER,
    step: int = 1,
) -> TrainingEdit:
    """Return a mistake in the training of a `subject`; `paddle` is by default the same text as `torch`."""
    return TrainingEdit(name, sentence, torch, torch if paddle is None else paddle, subject, phase, cause, step)


_of_network = functools.partial(_fault, subject=NETWORK)
"""Returns a mistake in the training of the network of convolutions."""


def _same(
    name: str, sentence: str, torch: Lines = (), paddle: Lines | None = None, network: bool = False
) -> TrainingEdit:
    """Return another spelling of the training."""
    return _fault(name, sentence, "", "", torch, paddle, NETWORK if network else TRANSFORMER)


PROGRAMS = (
    _fault("loss_summed", "the loss is a sum over the labels, not a mean", "loss", "reduction of the loss",
        _line("ignore_index=0)", 'ignore_index=0, reduction="sum")')),
    _fault("loss_of_all_labels", "the sum of the losses is divided by all labels, also by those that are ignored", "loss",
        "reduction of the loss",
        _line(_TOKENS, _TOKENS.replace("=0)", '=0, reduction="sum") / labels.numel()'))),
    _fault("loss_of_samples", "the sum of the losses is divided by the number of samples", "loss", "averages over the 3 samples",
        _line(_TOKENS, _TOKENS.replace("=0)", '=0, reduction="sum") / len(labels)'))),
    _fault("padding_counts", "padding counts as any label", "loss", "ignore_index of the loss",
        _line(", ignore_index=0", "")),
    _fault("labels_shifted", "labels are shifted by one place", "loss", "labels: the losses use different ones",
        _line(_TOKENS, _TOKENS.replace("labels.", "torch.roll(labels, 1, 1).")),
        _line(_TOKENS, _TOKENS.replace("labels.", "paddle.roll(labels, 1, 1)."))),
    _fault("class_weights", "classes have weights", "loss", "weights of the classes",
        _line(_TOKENS, _TOKENS.replace("ignore", "weight=torch.linspace(1, 2, 50), ignore")),
        _line(_TOKENS, _TOKENS.replace("ignore", "weight=paddle.linspace(1, 2, 50, flat.dtype), ignore"))),
    _fault("softmax_twice", "the loss gets probabilities in the place of scores", "loss", "loss applies a softmax to the outputs",
        _line(_TOKENS, _TOKENS.replace("flat", "F.softmax(flat, -1)"))),
    _fault("loss_scaled_back", "the loss is divided by the steps of a gradient accumulation that there is not", "loss",
        "reduction of the loss", _line(_TOKENS, f"{_TOKENS} / 4")),
    _of_network("smoothing_missing", "labels are not smoothed", "loss", "label smoothing: ",
        _line(", label_smoothing=0.1", "")),
    _of_network("smoothing_larger", "labels are smoothed by 0.2, not by 0.1", "loss", "label smoothing: ",
        _line("smoothing=0.1", "smoothing=0.2")),
    _of_network("loss_of_images_summed", "the loss of images is a sum", "loss", "reduction of the loss",
        _line("smoothing=0.1", 'smoothing=0.1, reduction="sum"')),
    _fault("clip_each", "each gradient is clipped by its own norm", "clipped", "the norm of each gradient",
        _line(_CLIP, "[nn.utils.clip_grad_norm_(parameter, 0.1) for parameter in self.parameters]"),
        _line(_PADDLE_CLIP, "paddle.nn.ClipGradByNorm(0.1)")),
    _fault("clip_values", "each number of a gradient is clipped", "clipped", "each number to 0.01",
        _line(_CLIP, "nn.utils.clip_grad_value_(self.parameters, 0.01)"), _line(_PADDLE_CLIP, "paddle.nn.ClipGradByValue(0.01)")),
    _fault("clip_missing", "gradients are not clipped", "clipped", "clips nothing", _line(_CLIP, "pass"), _line(_PADDLE_CLIP, "None")),
    _fault("clip_lower", "the norm of all gradients is clipped to 0.25, not to 0.5", "clipped", "to 0.25",
        _line(_CLIP, _CLIP.replace("0.5", "0.25")), _line(_PADDLE_CLIP, _PADDLE_CLIP.replace("0.5", "0.25"))),
    _fault("clip_by_group", "each group of parameters is clipped by itself", "clipped", "each group's gradients",
        ((_CLIP, "[nn.utils.clip_grad_norm_(group['params'], 0.5) for group in self.optimizer.param_groups]"),),
        (("parameters=self.parameters,", _IN_GROUPS),)),
    _fault("accumulated", "the optimizer is called in every second step only", "clipped", "as if it accumulated gradients",
        _line("self.optimizer.step()", "_ = self.schedule.last_epoch % 2 and self.optimizer.step()")),
    _fault("norms_left_out", "the optimizer does not get biases and weights of norms", "clipped", "optimizer has the parameters",
        _line(f", {_OTHERS}", ""),
        _line("parameters=self.parameters,", "parameters=[p for p in self.parameters if p.name in decayed],")),
    _fault("decay_coupled", "weight decay is added to the gradient, as in Adam", "state", "added to the gradient (coupled)",
        _line("AdamW(", "Adam("), (("AdamW(", "Adam("), (_DECAYED, ""))),
    _fault("decay_of_all", "norms and biases decay, too: the group is ignored", "update", "decoupled weight decay: ",
        _line(_OTHERS, _OTHERS.replace("0.0", "0.1")), _line(_DECAYED, "")),
    _fault("decay_missing", "nothing decays", "update", "decoupled weight decay: ",
        _line('"weight_decay": 0.1', '"weight_decay": 0.0'), _line("weight_decay=0.1", "weight_decay=0.0")),
    _fault("decay_by_default", "the weight decay is the framework's 0.01", "update", "decoupled weight decay: ",
        _line(', "weight_decay": 0.1', ""), _line("weight_decay=0.1,", "")),
    _fault("eps_larger", "eps of AdamW is 1e-6, not 1e-8", "update", "eps: ",
        _line("eps=1e-8", "eps=1e-6"), _line("epsilon=1e-8", "epsilon=1e-6")),
    _fault("beta1_other", "beta1 is 0.95, not 0.9", "state", "beta1: ", _line("(0.9,", "(0.95,"), _line("beta1=0.9,", "beta1=0.95,")),
    _fault("beta2_default", "beta2 is the default of 0.999, not 0.98", "state", "beta2: ",
        _line("0.98)", "0.999)"), _line("beta2=0.98,", "")),
    _fault("rate_doubled", "the learning rate is twice as large", "update", "learning rate: ",
        _line("lr=RATE", "lr=2 * RATE"), _line("StepDecay(RATE", "StepDecay(2 * RATE")),
    _fault("rate_of_a_group", "norms and biases have a tenth of the learning rate", "update", "learning rate: ",
        _line(_OTHERS, _OTHERS.replace("}", ', "lr": RATE / 10}')),
        _line("self.schedule =", "for p in self.parameters:\n            p.optimize_attr['learning_rate'] = 1.0 if p.ndim > 1 else 0.1\n"
            "        self.schedule =")),
    _fault("schedule_gamma", "the learning rate falls to a tenth, not to a half", "update", "learning rate: ",
        _line("gamma=0.5", "gamma=0.1"), step=3),
    _fault("schedule_idle", "the schedule is not stepped", "update", "learning rate: ", _line("self.schedule.step()", "pass"), step=3),
    _fault("schedule_early", "the learning rate falls one step too early", "update", "learning rate: ",
        _line("self.optimizer.step()\n        self.schedule.step()", "self.schedule.step()\n        self.optimizer.step()"), step=2),
    _of_network("nesterov", "the momentum is Nesterov's", "update", "Nesterov momentum: ",
        _line("momentum=0.9", "momentum=0.9, nesterov=True"), _line("momentum=0.9", "momentum=0.9, use_nesterov=True")),
    _of_network("momentum_lower", "the momentum is 0.8, not 0.9", "state", "momentum: ", _line("momentum=0.9", "momentum=0.8"), step=2),
    _of_network("dampening", "the gradient is dampened", "state", "dampening: ", _line("momentum=0.9", "momentum=0.9, dampening=0.1"),
        (), step=2),
    _of_network("decay_larger", "the weight decay is 5e-3, not 5e-4", "state", "weight decay added to the gradient (coupled): ",
        _line("5e-4", "5e-3")),
    _of_network("decay_l1", "the weight decay is that of L1", "state", "L1 decay added to the gradient: ", (),
        _line("weight_decay=5e-4", "weight_decay=paddle.regularizer.L1Decay(5e-4)")),
    _of_network("adam_for_momentum", "the optimizer is Adam", "update", "optimizer: ",
        _line(_SGD, "torch.optim.Adam(model.parameters(), lr=0.05)"),
        _line(_MOMENTUM, "paddle.optimizer.Adam(0.05, parameters=model.parameters())")),
)  # fmt: skip

SPELLED = (
    _same("fused", "the optimizer is fused", _line("eps=1e-8", "eps=1e-8, fused=True"), ()),
    _same("foreach", "the optimizer updates all parameters at once", _line("eps=1e-8", "eps=1e-8, foreach=True"), ()),
    _same("one_by_one", "the optimizer updates one parameter after the other", _line("eps=1e-8", "eps=1e-8, foreach=False"), ()),
    _same("adam_decoupled", "AdamW is Adam with decoupled decay", _line("AdamW(groups,", "Adam(groups, decoupled_weight_decay=True,"),
        ()),
    _same("decay_in_groups", "decay is chosen by groups, and clipping is a function", (),
        (("parameters=self.parameters,", _IN_GROUPS.replace("== first]}", '== first], "weight_decay": 0.1 * first}')),
            ("weight_decay=0.1,", ""), (_DECAYED, ""), (f"grad_clip={_PADDLE_CLIP},", ""),
            ("self.optimizer.step()", "paddle.nn.utils.clip_grad_norm_(self.parameters, 0.5)\n        self.optimizer.step()"))),
    _same("clip_by_hand", "the norm of all gradients is computed by hand",
        _line(_CLIP, "norm = torch.cat([p.grad.flatten() for p in self.parameters if p.grad is not None]).norm()\n"
            "        [p.grad.mul_(0.5 / norm) for p in self.parameters if p.grad is not None and norm > 0.5]"), ()),
    _same("schedule_by_function", "the schedule is a function of the step",
        _line("StepLR(self.optimizer, step_size=2, gamma=0.5)", "LambdaLR(self.optimizer, lambda step: 0.5 ** (step // 2))"),
        _line("StepDecay(RATE, step_size=2, gamma=0.5)", "LambdaDecay(RATE, lambda step: 0.5 ** (step // 2))")),
    _same("schedule_by_milestones", "the schedule has milestones",
        _line("StepLR(self.optimizer, step_size=2, gamma=0.5)", "MultiStepLR(self.optimizer, [2, 4], gamma=0.5)"),
        _line("StepDecay(RATE, step_size=2, gamma=0.5)", "MultiStepDecay(RATE, [2, 4], gamma=0.5)")),
    _same("loss_as_layer", "the loss is a layer", _line(_TOKENS, "nn.CrossEntropyLoss(ignore_index=0)(flat, labels.reshape([-1]))")),
    _same("loss_of_logarithms", "the loss is taken of logarithms of probabilities",
        _line(_TOKENS, "F.nll_loss(F.log_softmax(flat, -1), labels.reshape([-1]), ignore_index=0)")),
    _same("loss_of_chosen", "labels that are ignored are removed first",
        _line(_TOKENS, "F.cross_entropy(flat[labels.reshape([-1]) != 0], labels.reshape([-1])[labels.reshape([-1]) != 0])")),
    _same("rate_of_float32", "the learning rate is rounded to float32", _line("lr=0.05", "lr=0.05000000074505806"),
        _line("Momentum(0.05", "Momentum(0.05000000074505806"), network=True),
    _same("decay_as_regulariser", "the weight decay is a regulariser", (),
        _line("weight_decay=5e-4", "weight_decay=paddle.regularizer.L2Decay(5e-4)"), network=True),
    _same("decay_of_parameters", "each parameter has a regulariser of its own", (),
        _line(f"return {_MOMENTUM}", "for parameter in model.parameters():\n"
            "        parameter.regularizer = paddle.regularizer.L2Decay(5e-4)\n"
            f"    return {_MOMENTUM.replace(', weight_decay=5e-4', '')}"), network=True),
    _same("constant_schedule", "the factory returns a schedule that changes nothing",
        _line(f"return {_SGD}", f"optimizer = {_SGD}\n    return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)"),
        _line("Momentum(0.05", "Momentum(paddle.optimizer.lr.StepDecay(0.05, 100)"), network=True),
)  # fmt: skip
