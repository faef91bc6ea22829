"""The loss on the outputs of a projection head, against its formula."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.shared.training.projection_loss import projection_loss, projection_probs

TEMPERATURES = (0.04, 0.2, 1.0, 3.0)


def loss_of(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    return projection_loss(student, projection_probs(teacher, temperature), temperature)


def outputs(seed: int, num_crops: int = 5, num_outputs: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_crops, num_outputs, generator=generator, dtype=torch.float64)


def softmax(values: list[float], temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in values]
    return [power / sum(powers) for power in powers]


def by_definition(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> float:
    rows = [
        -sum(p * math.log(q) for p, q in zip(wanted, said, strict=True))
        for wanted, said in zip(
            [softmax(row, temperature) for row in teacher.tolist()],
            [softmax(row, temperature) for row in student.tolist()],
            strict=True,
        )
    ]
    return sum(rows) / len(rows)


@given(
    st.integers(0, 2**20),
    st.sampled_from(TEMPERATURES),
    st.integers(1, 6),
    st.integers(1, 9),
)
def test_it_is_the_cross_entropy_of_two_softmaxes(
    seed: int, temperature: float, num_crops: int, num_outputs: int
) -> None:
    student, teacher = (
        outputs(seed, num_crops, num_outputs),
        outputs(seed + 1, num_crops, num_outputs),
    )
    found = loss_of(student, teacher, temperature)
    assert found.shape == () and found.dtype == torch.float64
    assert found.item() == pytest.approx(by_definition(student, teacher, temperature), rel=1e-9)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_a_student_that_says_what_the_teacher_says_has_the_teachers_entropy(
    temperature: float,
) -> None:
    teacher = outputs(3)
    probs = (teacher / temperature).softmax(1)
    entropy = torch.special.entr(probs).sum(1).mean()
    torch.testing.assert_close(loss_of(teacher, teacher, temperature), entropy)
    # A softmax does not see a constant: no other student is better, this one is as good.
    shifted = teacher + torch.arange(5, dtype=torch.float64)[:, None]
    torch.testing.assert_close(loss_of(shifted, teacher, temperature), entropy)
    assert loss_of(outputs(4), teacher, temperature) > entropy


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_its_gradient_is_the_difference_of_the_softmaxes(temperature: float) -> None:
    student, teacher = outputs(5).requires_grad_(), outputs(6)
    assert torch.autograd.gradcheck(lambda s: loss_of(s, teacher, temperature), student)
    loss_of(student, teacher, temperature).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    torch.testing.assert_close(student.grad.sum(1), torch.zeros(5, dtype=torch.float64))
    difference = (student / temperature).softmax(1) - (teacher / temperature).softmax(1)
    torch.testing.assert_close(student.grad, difference.detach() / temperature / 5)


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = outputs(7).requires_grad_(), outputs(8).requires_grad_()
    loss_of(student, teacher, 0.2).backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype: torch.dtype) -> None:
    student, teacher = (40 * outputs(9)).to(dtype), (40 * outputs(10)).half()
    found = loss_of(student, teacher, 0.2)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss_of(student.float(), teacher.float(), 0.2))
    wanted = loss_of(student.double(), teacher.double(), 0.2)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    assert loss_of(outputs(9).float(), teacher, 0.2).dtype == torch.float32


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mixed_labels_make_the_mixture_of_the_losses(share: float) -> None:
    student, one, other = outputs(1), outputs(2), outputs(3)
    mixed = share * projection_probs(one, 0.2) + (1 - share) * projection_probs(other, 0.2)
    expected = share * loss_of(student, one, 0.2) + (1 - share) * loss_of(student, other, 0.2)
    torch.testing.assert_close(projection_loss(student, mixed, 0.2), expected)
