"""The sparse loss is the dense formula, in value and gradient, for every label there can be."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.shared.training.config import LossName
from stages.shared.training.labels import LabelTensors
from stages.shared.training.loss import (
    TemperatureOn,
    centred_mse,
    dense_cross_entropy,
    distillation_loss,
    label_entropy,
    sparse_cross_entropy,
    sparse_entropy,
)
from stages.shared.training.mixing import image_partners, selfmix_partners
from store.batch import LabelBatch
from store.codecs import Kind, LabelSpec, encode, to_dense, to_entries
from store.dense_codecs import decode_full
from store.errors import ParamsError
from store.overlay import combine, combine_dense


class Case(NamedTuple):
    logits: torch.Tensor
    class_ids: torch.Tensor
    weights: torch.Tensor
    tail: torch.Tensor


def make_case(
    kind: str, *, num_rows: int = 7, num_classes: int = 11, num_entries: int = 3, seed: int = 0
) -> Case:
    rng = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=rng, dtype=torch.float64)

    logits = 6 * uniform(num_rows, num_classes) - 3
    class_ids = uniform(num_rows, num_classes).argsort(1)[:, :num_entries]
    weights = uniform(num_rows, num_entries)
    weights = weights / weights.sum(1, keepdim=True)
    tail = torch.zeros(num_rows, dtype=torch.float64)
    if kind == "hard":
        class_ids, weights = class_ids[:, :1], torch.ones_like(weights[:, :1])
    elif kind == "smoothed":
        weights, tail = 0.8 * weights, tail + 0.2 / num_classes
    elif kind == "repeated":
        class_ids = class_ids[:, [0, 1, 0]] if num_entries >= 3 else class_ids[:, :1].repeat(1, 2)
        weights = weights[:, : class_ids.shape[1]]
    elif kind == "negative":
        weights[:, 0] -= 0.3
        tail = (1 - weights.sum(1)) / num_classes
    elif kind == "unnormalised":
        weights, tail = 3 * weights, tail + 0.1
    elif kind == "empty":
        class_ids, weights, tail = class_ids[:, :0], weights[:, :0], tail + 1 / num_classes
    else:
        assert kind == "renormalised"
    return Case(logits, class_ids, weights, tail)


KINDS = ["hard", "renormalised", "smoothed", "repeated", "negative", "unnormalised", "empty"]


def dense_label(case: Case) -> torch.Tensor:
    dense = case.tail[:, None].repeat(1, case.logits.shape[1])
    for row in range(len(dense)):
        for class_id, weight in zip(case.class_ids[row], case.weights[row], strict=True):
            dense[row, class_id] += weight
    return dense


def dense_formula(case: Case, temperature: float = 1.0) -> torch.Tensor:
    scaled = case.logits / temperature
    logp = scaled - scaled.exp().sum(1, keepdim=True).log()
    return -(dense_label(case) * logp).sum(1).mean() * temperature**2


def gradient(loss: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    (grad,) = torch.autograd.grad(loss, logits)
    return grad


@pytest.mark.parametrize("temperature", [1.0, 4.0, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_sparse_is_dense_in_float64(kind: str, temperature: float) -> None:
    case = make_case(kind, num_rows=70)  # more rows than one chunk of the backward
    case.logits.requires_grad_()
    sparse = sparse_cross_entropy(*case, temperature=temperature)
    dense = dense_formula(case, temperature)
    torch.testing.assert_close(sparse, dense, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        gradient(sparse, case.logits), gradient(dense, case.logits), rtol=1e-10, atol=1e-14
    )


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    num_rows=st.integers(1, 5),
    num_classes=st.integers(3, 40),
    seed=st.integers(0, 2**31),
    temperature=st.sampled_from([1.0, 2.0]),
)
def test_sparse_is_dense_for_random_cases(
    kind: str, num_rows: int, num_classes: int, seed: int, temperature: float
) -> None:
    case = make_case(kind, num_rows=num_rows, num_classes=num_classes, seed=seed)
    case.logits.requires_grad_()
    loss = sparse_cross_entropy(*case, temperature=temperature)
    expected = dense_formula(case, temperature)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    grad = gradient(loss, case.logits)
    torch.testing.assert_close(grad, gradient(expected, case.logits), rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(
        grad.sum(1), torch.zeros(num_rows, dtype=torch.float64), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind: str) -> None:
    case = make_case(kind)
    case.logits.requires_grad_()

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return sparse_cross_entropy(logits, *case[1:], temperature=2.0)

    assert torch.autograd.gradcheck(loss, (case.logits,))


def test_upstream_gradient_scales_it() -> None:
    case = make_case("smoothed")
    case.logits.requires_grad_()
    once = gradient(sparse_cross_entropy(*case), case.logits)
    thrice = gradient(3 * sparse_cross_entropy(*case), case.logits)
    torch.testing.assert_close(thrice, 3 * once)


def test_backward_twice_through_a_kept_graph_is_the_same() -> None:
    case = make_case("smoothed")
    case.logits.requires_grad_()
    loss = sparse_cross_entropy(*case)
    (first,) = torch.autograd.grad(loss, case.logits, retain_graph=True)
    (second,) = torch.autograd.grad(loss, case.logits)
    assert torch.equal(first, second)


def test_temperature_one_is_no_temperature() -> None:
    case = make_case("negative")
    assert torch.equal(sparse_cross_entropy(*case), sparse_cross_entropy(*case, temperature=1.0))


def test_hard_label_is_torch_cross_entropy() -> None:
    case = make_case("hard")
    expected = F.cross_entropy(case.logits, case.class_ids[:, 0])
    torch.testing.assert_close(sparse_cross_entropy(*case), expected)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_dense_variant_is_the_formula(temperature: float) -> None:
    case = make_case("negative")
    case.logits.requires_grad_()
    loss = dense_cross_entropy(case.logits, dense_label(case), temperature)
    expected = dense_formula(case, temperature)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, case.logits), gradient(expected, case.logits))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_raised_first(dtype: torch.dtype) -> None:
    case = make_case("smoothed")
    half = case.logits.to(dtype).requires_grad_()
    loss = sparse_cross_entropy(half, *case[1:])
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, sparse_cross_entropy(half.float(), *case[1:]))
    assert gradient(loss, half).dtype == dtype


def as_labels(case: Case, targets: torch.Tensor, *, dense: bool = False) -> LabelTensors:
    if dense:
        num_rows = len(targets)
        none = torch.zeros(num_rows, 0)
        return LabelTensors(none.long(), none, torch.zeros(num_rows), targets, dense_label(case))
    return LabelTensors(case.class_ids, case.weights, case.tail, targets)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("truth_weight", [0.0, 0.3, 1.0])
def test_truth_weight_mixes_two_losses(truth_weight: float, dense: bool) -> None:
    case = make_case("smoothed")
    targets = torch.arange(7)
    labels = as_labels(case, targets, dense=dense)
    loss = distillation_loss(case.logits, labels, temperature=2.0, truth_weight=truth_weight)
    truth = F.cross_entropy(case.logits, targets)  # the ground truth has no temperature
    expected = truth_weight * truth + (1 - truth_weight) * dense_formula(case, 2.0)
    torch.testing.assert_close(loss, expected)


def test_labels_flatten_image_after_image() -> None:
    class_ids = np.arange(12, dtype=np.int64).reshape(2, 3, 2)
    batch = LabelBatch(
        boxes=np.zeros((2, 3, 4), np.int32),
        flips=np.zeros((2, 3), np.bool_),
        class_ids=class_ids,
        weights=(class_ids / 12).astype(np.float32),
        tail=np.arange(6, dtype=np.float32).reshape(2, 3),
        targets=np.array([4, 9]),
        dense=np.arange(30, dtype=np.float32).reshape(2, 3, 5),
    )
    labels = LabelTensors.from_batch(batch)
    assert labels.class_ids.tolist() == class_ids.reshape(6, 2).tolist()
    assert labels.tail.tolist() == [0, 1, 2, 3, 4, 5]
    assert labels.targets.tolist() == [4, 4, 4, 9, 9, 9]
    assert labels.dense is not None
    assert labels.dense[3].tolist() == [15, 16, 17, 18, 19]


def test_truth_labels_are_one_hot() -> None:
    targets = torch.tensor([2, 0, 5])
    labels = LabelTensors.from_targets(targets)
    logits = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(distillation_loss(logits, labels), F.cross_entropy(logits, targets))


def test_saves_one_buffer_of_logits_size() -> None:
    case = make_case("smoothed", num_rows=9, num_classes=50)
    case.logits.requires_grad_()
    saved: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        sparse_cross_entropy(*case)
    assert sum(tensor.numel() >= case.logits.numel() for tensor in saved) == 1


PARTNERS = torch.tensor([3, 0, 6, 1, 2, 4, 5])


def dense_reference(
    logits: torch.Tensor, dense: torch.Tensor, loss: str, temperature: float
) -> torch.Tensor:
    scaled = logits / temperature
    logp = scaled - scaled.exp().sum(1, keepdim=True).log()
    rows = -(dense * logp).sum(1)
    if loss == "kl":
        rows = rows + torch.xlogy(dense.clamp(min=0), dense.clamp(min=0)).sum(1)
    return rows.mean() * temperature**2


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("share", [None, 0.3])
@pytest.mark.parametrize("loss", ["cross_entropy", "kl"])
@pytest.mark.parametrize("kind", KINDS)
def test_mixed_sparse_is_dense_in_float64(
    kind: str, loss: LossName, share: float | None, temperature: float
) -> None:
    case = make_case(kind)
    case = case._replace(tail=case.tail * torch.linspace(1, 0, 7, dtype=torch.float64))
    case.logits.requires_grad_()
    labels, dense = as_labels(case, torch.arange(7)), dense_label(case)
    if share is not None:
        labels = labels.mixed(PARTNERS, share)
        dense = share * dense + (1 - share) * dense[PARTNERS]
    value = distillation_loss(case.logits, labels, temperature=temperature, loss=loss)
    expected = dense_reference(case.logits, dense, loss, temperature)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    grad = gradient(value, case.logits)
    torch.testing.assert_close(grad, gradient(expected, case.logits), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(grad.sum(1), torch.zeros_like(grad[:, 0]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("loss", ["cross_entropy", "kl", "mse"])
def test_gradcheck_of_mixed_labels(loss: LossName, dense: bool) -> None:
    if loss == "mse" and not dense:
        return
    case = make_case("smoothed", num_rows=7, num_classes=5)
    labels = as_labels(case, torch.arange(7) % 5, dense=dense).mixed(PARTNERS, 0.6)
    case.logits.requires_grad_()

    def value(logits: torch.Tensor) -> torch.Tensor:
        return distillation_loss(logits, labels, truth_weight=0.4, loss=loss)

    assert torch.autograd.gradcheck(value, (case.logits,))
    grad = gradient(value(case.logits), case.logits)
    torch.testing.assert_close(grad.sum(1), torch.zeros_like(grad[:, 0]), rtol=0, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    num_classes=st.integers(3, 12),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_mixing_is_linear_in_labels_and_losses(
    kind: str, num_classes: int, share: float, seed: int
) -> None:
    case = make_case(kind, num_classes=num_classes, seed=seed)
    case = case._replace(tail=case.tail * torch.linspace(1, 0, 7, dtype=torch.float64))
    labels = as_labels(case, torch.arange(7) % num_classes)
    mixed, dense = labels.mixed(PARTNERS, share), labels.expand(num_classes)
    expected = share * dense + (1 - share) * dense[PARTNERS]
    torch.testing.assert_close(mixed.expand(num_classes), expected)
    partner = Case(*case)._replace(
        class_ids=case.class_ids[PARTNERS], weights=case.weights[PARTNERS], tail=case.tail[PARTNERS]
    )
    torch.testing.assert_close(
        distillation_loss(case.logits, mixed),
        share * sparse_cross_entropy(*case) + (1 - share) * sparse_cross_entropy(*partner),
    )
    entropy = torch.special.entr(expected.clamp(min=0)).sum(1)
    torch.testing.assert_close(label_entropy(mixed, num_classes, torch.float64), entropy)


def test_entropy_sums_a_class_that_stands_thrice_first() -> None:
    ids = torch.tensor([[2, 0, 2, 2], [1, 1, 1, 1]])
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.2], [0.5, 0.25, 0.25, 0.0]], dtype=torch.float64)
    tail = torch.tensor([0.05, 0.0], dtype=torch.float64)
    expected = torch.tensor([0.25, 0.05, 0.65, 0.05], dtype=torch.float64)
    value = sparse_entropy(ids, weights, tail, 4)
    assert value[0] == pytest.approx(-(expected * expected.log()).sum().item(), abs=1e-15)
    assert value[1] == 0


@pytest.mark.parametrize("dense", [False, True])
def test_kl_is_nothing_where_the_student_agrees(dense: bool) -> None:
    case = make_case("smoothed")
    labels = as_labels(case, torch.arange(7), dense=dense)
    logits = (dense_label(case).log() + 5).requires_grad_()  # a shift is no difference
    loss = distillation_loss(logits, labels, loss="kl")
    assert loss.item() == pytest.approx(0, abs=1e-14)
    assert gradient(loss, logits).abs().max() < 1e-15
    assert distillation_loss(case.logits, labels, loss="kl") > 0.01


def test_kl_has_the_gradient_of_cross_entropy_bit_for_bit() -> None:
    case = make_case("repeated")
    logits = case.logits.float().requires_grad_()
    labels = as_labels(case, torch.arange(7))
    kl = distillation_loss(logits, labels, temperature=2.0, loss="kl")
    cross_entropy = distillation_loss(logits, labels, temperature=2.0)
    assert torch.equal(gradient(kl, logits), gradient(cross_entropy, logits))


def test_mse_does_not_see_a_shift_and_is_nothing_at_the_label() -> None:
    case = make_case("smoothed")
    dense = dense_label(case)
    loss = centred_mse(case.logits, dense)
    shifts = torch.linspace(-9, 9, 7, dtype=torch.float64)[:, None]
    torch.testing.assert_close(centred_mse(case.logits + shifts, dense), loss)
    assert centred_mse(dense.log() + shifts, dense).item() == pytest.approx(0, abs=1e-25)
    target = dense.log() - dense.log().mean(1, keepdim=True)
    centred = case.logits - case.logits.mean(1, keepdim=True)
    torch.testing.assert_close(loss, (centred - target).square().mean())


def test_mse_is_twice_kl_at_high_temperature() -> None:
    case = make_case("smoothed")
    temperature = 1e4
    hot_label = (dense_label(case).log() / temperature).softmax(1)
    labels = replace(as_labels(case, torch.arange(7), dense=True), dense=hot_label)
    hot = distillation_loss(case.logits, labels, temperature=temperature, loss="kl")
    torch.testing.assert_close(
        2 * hot, centred_mse(case.logits, dense_label(case)), rtol=1e-3, atol=0
    )


def test_mse_stops_at_the_least_stored_probability() -> None:
    stored = np.array([[1, 0, 2.0**-24, 2.0**-26]], dtype=np.float16).astype(np.float32)
    assert (stored > 0).tolist() == [[True, False, True, False]]
    logits = torch.tensor([[24 * np.log(2), 0, 0, 0]], dtype=torch.float32)
    assert centred_mse(logits, torch.from_numpy(stored)).item() == pytest.approx(0, abs=1e-10)


def test_mse_refuses_labels_without_all_classes() -> None:
    case = make_case("smoothed")
    with pytest.raises(ParamsError, match=r"compress\.kind to full"):
        distillation_loss(case.logits, as_labels(case, torch.arange(7)), loss="mse")


@pytest.mark.parametrize("loss", ["cross_entropy", "kl", "mse"])
@pytest.mark.parametrize("truth_weight", [0.3, 1.0])
def test_mixed_ground_truth_has_the_shares_of_the_crops(
    truth_weight: float, loss: LossName
) -> None:
    case = make_case("smoothed")
    targets = torch.arange(7)
    labels = as_labels(case, targets, dense=True).mixed(PARTNERS, 0.6)
    own = F.cross_entropy(case.logits, targets)
    partner = F.cross_entropy(case.logits, targets[PARTNERS])
    rest = distillation_loss(case.logits, labels, loss=loss)
    expected = truth_weight * (0.6 * own + 0.4 * partner) + (1 - truth_weight) * rest
    value = distillation_loss(case.logits, labels, truth_weight=truth_weight, loss=loss)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dense", [False, True])
def test_cross_entropy_without_mixing_is_to_the_bit_what_it_is_alone(dense: bool) -> None:
    case = make_case("smoothed")
    logits, targets = case.logits.float().requires_grad_(), torch.arange(7)
    labels = as_labels(case, targets, dense=dense)
    alone = (
        dense_cross_entropy(logits, dense_label(case), 2.0)
        if dense
        else sparse_cross_entropy(logits, *case[1:], temperature=2.0)
    )
    truth = F.cross_entropy(logits, targets)
    for weight, expected in ((0.0, alone), (0.3, 0.3 * truth + (1 - 0.3) * alone), (1.0, truth)):
        value = distillation_loss(logits, labels, temperature=2.0, truth_weight=weight)
        assert torch.equal(value, expected)
        grads = [
            torch.autograd.grad(one, logits, retain_graph=True)[0] for one in (value, expected)
        ]
        assert torch.equal(*grads)


class Stored(NamedTuple):
    """One drawn label of every crop, as training gets it and as the dense algebra says it is."""

    labels: LabelTensors
    dense: torch.Tensor


SPARSE_KINDS = ("hard", "smoothing", "marginal_smoothing", "marginal_renorm")


@st.composite
def stored_labels(draw: st.DrawFn) -> Stored:
    """Random predictions through the store's codecs, a calibration's weights and a mixing."""
    kind: Kind = draw(st.sampled_from((*SPARSE_KINDS, "full")))
    num_classes = draw(st.integers(2, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    num_rows = draw(st.integers(1, 3)) * 2  # two crops of each image
    sparse = kind not in ("hard", "full")
    spec = LabelSpec(
        kind,
        k=draw(st.integers(1, num_classes)),
        num_classes=num_classes,
        precision="float16" if kind == "full" else draw(st.sampled_from(["float16", "compact"])),
        include_target=sparse and draw(st.booleans()),
    )
    probs = rng.dirichlet(np.full(num_classes, draw(st.sampled_from([0.1, 1.0]))), num_rows)
    targets = rng.integers(0, num_classes, num_rows).astype(np.int32)
    a, b = _calibration(draw, rng, num_rows)
    labels, dense = _encoded(spec, probs, targets, a, b)
    mix = draw(st.sampled_from(["none", "selfmix", "mixup", "cutmix"]))
    if mix != "none" and (mix == "selfmix" or num_rows > 2):
        partners = selfmix_partners if mix == "selfmix" else image_partners
        order = torch.from_numpy(partners(num_rows // 2, 2, 0.5))
        # What shares a mixture takes differs, not what is done with them.
        share = draw(st.floats(0, 1))
        labels = labels.mixed(order, share)
        dense = share * dense + (1 - share) * dense[order]
    return Stored(labels, dense)


def _calibration(
    draw: st.DrawFn, rng: np.random.Generator, num_rows: int
) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    if not draw(st.booleans()):
        return None, None
    a = rng.uniform(0, 1, num_rows).astype(np.float32)
    b = (rng.uniform(0, 1, num_rows) * (1 - a)).astype(np.float32)
    a[0], b[0] = draw(st.sampled_from([(1, 0), (0, 1), (0, 0.5), (0.3, 0.7)]))
    return a, b


def _encoded(
    spec: LabelSpec,
    probs: np.ndarray,
    targets: np.ndarray,
    a: np.ndarray | None,
    b: np.ndarray | None,
) -> tuple[LabelTensors, torch.Tensor]:
    """Both forms of labels; dense from the codec's own dense decoding, not from entries."""
    entries: tuple[np.ndarray, ...] = ()
    ids = np.argsort(-probs, axis=1, kind="stable").astype(np.int32)
    own = np.take_along_axis(probs, targets[:, None].astype(np.int64), 1)[:, 0]
    if spec.kind == "full":
        dense = decode_full(probs.astype(np.float16)).astype(np.float64)
    else:
        ranked = np.take_along_axis(probs, ids.astype(np.int64), 1)
        stored = encode(spec, ids, ranked, targets, own)
        dense = to_dense(spec, stored, targets)
        entries = to_entries(spec, stored, targets)
    if a is not None and b is not None:
        dense = combine_dense(dense, targets, a, b)
        if spec.kind != "full":
            class_ids, weights, tail = entries
            entries = combine(class_ids, weights, tail, targets, a, b, spec.num_classes)
    truth = torch.from_numpy(targets.astype(np.int64))
    if spec.kind == "full":
        none = torch.zeros(len(truth), 0)
        full = torch.from_numpy(dense)
        return LabelTensors(none.long(), none, torch.zeros(len(truth)), truth, full), full
    found_ids, found_weights, found_tail = (torch.from_numpy(part) for part in entries)
    labels = LabelTensors(found_ids.long(), found_weights, found_tail, truth)
    return labels, torch.from_numpy(dense)


@settings(max_examples=200, deadline=None)
@given(
    stored=stored_labels(),
    loss=st.sampled_from(["cross_entropy", "kl"]),
    temperature=st.sampled_from([1.0, 2.0, 0.7]),
    temperature_on=st.sampled_from(["both", "student"]),
    truth_weight=st.sampled_from([0.0, 0.3, 1.0]),
    spread=st.sampled_from([1.0, 10.0, 300.0]),
)
def test_labels_of_the_store_are_the_dense_formula(
    stored: Stored,
    loss: LossName,
    temperature: float,
    temperature_on: TemperatureOn,
    truth_weight: float,
    spread: float,
) -> None:
    labels, dense = stored
    num_rows, num_classes = dense.shape
    rng = torch.Generator().manual_seed(num_rows * 100 + num_classes)
    logits = spread * torch.randn(num_rows, num_classes, generator=rng, dtype=torch.float64)
    logits.requires_grad_()
    value = distillation_loss(
        logits,
        labels,
        temperature=temperature,
        truth_weight=truth_weight,
        loss=loss,
        temperature_on=temperature_on,
    )
    # Sparse weights are float32; the loss itself is float64, so it is compared with what they say.
    said = labels.expand(num_classes)
    torch.testing.assert_close(said, dense, rtol=0, atol=1e-6)
    torch.testing.assert_close(said.sum(1), torch.ones_like(said[:, 0]), rtol=0, atol=1e-5)
    scaled = logits / temperature
    rows = -(said * scaled.log_softmax(1)).sum(1)
    if loss == "kl":
        rows = rows - torch.special.entr(said.clamp(min=0)).sum(1)
    soft = rows.mean() * (temperature**2 if temperature_on == "both" else 1)
    onehot = F.one_hot(labels.targets, num_classes).double()
    if labels.partner_targets is not None:
        other = F.one_hot(labels.partner_targets, num_classes).double()
        onehot = labels.share * onehot + (1 - labels.share) * other
    truth = -(onehot * logits.log_softmax(1)).sum(1).mean()
    expected = truth_weight * truth + (1 - truth_weight) * soft
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
    grad, expected_grad = gradient(value, logits), gradient(expected, logits)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(grad.sum(1), torch.zeros_like(grad[:, 0]), rtol=0, atol=1e-12)


def test_temperature_of_the_student_alone_is_a_scale_of_its_logits() -> None:
    case = make_case("smoothed")
    labels = as_labels(case, torch.arange(7))
    case.logits.requires_grad_()
    options: dict[str, Any] = {"temperature": 4.0, "temperature_on": "student"}
    value = distillation_loss(case.logits, labels, **options)
    torch.testing.assert_close(value, distillation_loss(case.logits / 4, labels))
    both = distillation_loss(case.logits, labels, temperature=4.0)
    torch.testing.assert_close(16 * value, both)
    half = distillation_loss(case.logits, labels, truth_weight=0.5, **options)
    truth = F.cross_entropy(case.logits, labels.targets)
    torch.testing.assert_close(half, 0.5 * truth + 0.5 * value)


@pytest.mark.parametrize("worst", [-90.0, -110.0, -1e4])
def test_classes_without_a_probability_in_float32_have_a_loss(worst: float) -> None:
    case = make_case("smoothed", num_rows=4)
    logits = case.logits.float()
    logits[2, case.class_ids[2, 0]] = worst
    logits[3, case.class_ids[3, 1]] = worst
    weights, tail = case.weights.float(), case.tail.float()
    value = sparse_cross_entropy(logits, case.class_ids, weights, tail)
    exact = sparse_cross_entropy(logits.double(), case.class_ids, case.weights, case.tail)
    dense = dense_formula(case._replace(logits=logits.double()))
    torch.testing.assert_close(exact, dense, rtol=1e-12, atol=0)
    torch.testing.assert_close(value.double(), dense, rtol=2e-6, atol=0)
