"""The loss of self-supervised distillation, on the outputs of a projection head (FKD, section 3.4).

Shapes: B crops, D outputs. With student s, teacher t and one temperature tau for both,

    L = -mean over crops of sum_d softmax(t / tau)_d log_softmax(s / tau)_d

There is no factor tau^2, as in FKD. Where the student says what the teacher says, L is the entropy
of the teacher's softmax, its least value.
"""

import torch
import torch.nn.functional as F


def projection_probs(teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return softmax(t / tau) (B, D) of the teacher's outputs (B, D), without gradient.

    Crops that are mixed have these mixed: cross-entropy is linear in them, so the loss is
    lambda L_a + (1 - lambda) L_b. Mixed outputs would be another label.
    """
    dtype = torch.promote_types(teacher.dtype, torch.float32)
    return (teacher.detach().to(dtype) / temperature).softmax(dim=1)


def projection_loss(student: torch.Tensor, probs: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean cross-entropy (scalar) of the student's outputs (B, D) with `projection_probs` (B, D).

    Computed in float32, or in float64 where the student's outputs are. The gradient by the
    student's outputs sums to 0 over the outputs.
    """
    dtype = torch.promote_types(student.dtype, torch.float32)
    return F.cross_entropy(student.to(dtype) / temperature, probs.to(dtype))
