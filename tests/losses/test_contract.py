"""What every loss module of the package keeps to. A new loss joins `cases.LOSSES`."""

import copy
import pickle

import pytest
import torch

from tests.losses.cases import LOSSES, NUM_CLASSES, batch

HALVES = (torch.bfloat16, torch.float16)
FLOATS = (*HALVES, torch.float32, torch.float64)


@pytest.fixture(params=LOSSES)
def loss(request):
    return LOSSES[request.param]()


@pytest.fixture
def default_dtype():
    before = torch.get_default_dtype()
    yield torch.set_default_dtype
    torch.set_default_dtype(before)


def assert_same_output(one, other):
    assert torch.equal(one.loss, other.loss)
    assert one.factors.keys() == other.factors.keys()
    for name, factor in one.factors.items():
        assert torch.equal(factor, other.factors[name])


def test_output_is_a_scalar_and_factors_per_class(loss):
    output = loss(*batch())
    assert output.loss.shape == ()
    assert output.loss > 0
    for factor in output.factors.values():
        assert factor.shape == (NUM_CLASSES,)
        assert not factor.requires_grad


def test_order_of_the_images_is_irrelevant(loss):
    logits, targets = batch()
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(1))
    one, other = loss(logits, targets), loss(logits[order], targets[order])
    torch.testing.assert_close(one.loss, other.loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(one.factors, other.factors, rtol=1e-12, atol=0)


def test_inputs_are_untouched(loss):
    logits, targets = (x.double() for x in batch())
    logits.requires_grad_()
    before = logits.detach().clone(), targets.clone()
    loss(logits, targets).loss.backward()
    assert torch.equal(logits.detach(), before[0])
    assert torch.equal(targets, before[1])
    assert logits._version == targets._version == 0
    assert targets.grad is None


@pytest.mark.parametrize("enabled", [True, False])
def test_gradient_mode_is_respected_and_untouched(loss, enabled):
    logits, targets = batch()
    logits.requires_grad_()
    with torch.set_grad_enabled(enabled):
        output = loss(logits, targets)
        assert torch.is_grad_enabled() is enabled
    assert output.loss.requires_grad is enabled


def test_gradient_flows_to_every_logit(loss):
    """At logits that are not extreme: ASL rests, as published, where a negative has p < clip."""
    logits, targets = batch(spread=1.0)
    logits.requires_grad_()
    loss(logits, targets).loss.backward()
    assert (logits.grad != 0).all()


def test_keeps_no_state_between_batches(loss):
    before = loss(*batch(0))
    loss(*batch(1))
    assert_same_output(loss(*batch(0)), before)


def test_factors_belong_to_the_caller(loss):
    logits, targets = batch()
    logits = logits.float()  # the type of the buffers: where a factor could be one of them
    before = loss(logits, targets).loss
    for factor in loss(logits, targets).factors.values():
        factor.fill_(7.0)
    assert torch.equal(loss(logits, targets).loss, before)


@pytest.mark.parametrize("dtype", FLOATS)
def test_computes_in_at_least_float32(loss, dtype):
    logits, targets = batch()
    logits = logits.to(dtype).requires_grad_()
    output = loss(logits, targets)
    output.loss.backward()
    computed = torch.float64 if dtype == torch.float64 else torch.float32
    assert output.loss.dtype == computed
    assert all(factor.dtype == computed for factor in output.factors.values())
    assert logits.grad.dtype == dtype


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_logits_are_computed_in_float32(loss, dtype):
    logits, targets = batch()
    logits = logits.to(dtype)
    assert_same_output(loss(logits, targets), loss(logits.float(), targets))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, *FLOATS])
def test_labels_may_have_any_type(loss, dtype):
    logits, targets = batch()
    assert_same_output(loss(logits, targets.to(dtype)), loss(logits, targets))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_default_dtype_is_irrelevant(name, dtype, default_dtype):
    logits, targets = batch()
    before = LOSSES[name]()(logits.float(), targets)
    default_dtype(dtype)
    assert_same_output(LOSSES[name]()(logits.float(), targets), before)


def test_state_dict_round_trip(loss):
    logits, targets = batch()
    before = loss(logits, targets)
    loss.load_state_dict(loss.state_dict(), strict=True)
    assert_same_output(loss(logits, targets), before)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_equal(loss, duplicate):
    assert_same_output(duplicate(loss)(*batch()), loss(*batch()))


@pytest.mark.parametrize("dtype", FLOATS)
def test_survives_being_moved_to_another_precision(loss, dtype):
    logits, targets = batch(spread=1.0)
    before = loss(logits.float(), targets).loss
    after = loss.to(dtype)(logits.float(), targets).loss
    assert after.dtype == torch.float32
    tolerance = 0.05 if dtype in HALVES else 1e-6
    torch.testing.assert_close(after, before, rtol=tolerance, atol=0)


def test_never_waits_for_a_value(loss):
    """On the meta device there are no values: .item() and branches on data fail there, as they
    would make a GPU wait."""
    logits, targets = (x.to("meta") for x in batch())
    output = loss.to("meta")(logits.requires_grad_(), targets)
    output.loss.backward()
    assert output.loss.is_meta
    assert logits.grad.is_meta


def test_state_is_made_of_arguments_only(loss):
    """A checkpoint of another setting cannot override the factors of this one."""
    assert not loss.state_dict()
    assert not list(loss.parameters())
    assert all(buffer.is_meta for buffer in loss.to("meta").buffers())


@pytest.mark.parametrize("rows", [slice(0, 1), slice(None)])
def test_images_without_positives_have_a_loss(loss, rows):
    """One of them, and a batch of nothing else."""
    logits, targets = batch(spread=1.0)
    targets[rows] = False
    logits.requires_grad_()
    output = loss(logits, targets)
    output.loss.backward()
    assert output.loss.isfinite()
    assert output.loss > 0
    assert logits.grad.isfinite().all()
    assert (logits.grad[0] > 0).all()
