"""Products through oneDNN: those of MKL up to rounding, of every way that matrices lie, and gone behind the context."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from megatron_prealign.platform import matrix_products
from megatron_prealign.platform.matrix_products import prefers_onednn, products_through_onednn

pytestmark = pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="torch without oneDNN")
ONEDNN = "mkldnn::_linear_pointwise"
ROWS, INNER, COLUMNS = 200, 300, 150  # more than 2^23 multiplications


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def _by_column(rows: int, columns: int) -> Tensor:
    return torch.randn(columns, rows).t()


def _cut_out(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns + 7)[:, 3 : columns + 3]


def _every_other(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, 2 * columns)[:, ::2]


def _repeated(rows: int, columns: int) -> Tensor:
    return torch.randn(1, columns).expand(rows, columns)


def _operators(multiply: Callable[[], Tensor]) -> set[str]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        multiply()
    return {event.name for event in profile.events()}


def _assert_close(product: Tensor, left: Tensor, right: Tensor) -> None:
    exact = left.double() @ right.double()
    # Rounding grows with the numbers that are summed, not with the sum.
    assert bool(((product - exact).abs() <= 1e-6 * (left.double().abs() @ right.double().abs())).all())


LAYOUTS = [torch.randn, _by_column, _cut_out, _every_other, _repeated]


@pytest.mark.parametrize("make_left", LAYOUTS)
@pytest.mark.parametrize("make_right", LAYOUTS)
def test_products_are_right(make_left: Callable[..., Tensor], make_right: Callable[..., Tensor]) -> None:
    left, right = make_left(ROWS, INNER), make_right(INNER, COLUMNS)
    with products_through_onednn():
        product = left @ right
        assert product.is_contiguous()
        _assert_close(product, left, right)


def test_bits_do_not_depend_on_where_matrices_lie() -> None:
    matrices = torch.randn(ROWS, INNER), torch.randn(COLUMNS, INNER), torch.randn(ROWS, COLUMNS)
    moved = [torch.cat([torch.zeros(1), matrix.flatten()])[1:].view_as(matrix) for matrix in matrices]
    with products_through_onednn():
        for inputs, weight, gradient in (matrices, moved):
            assert torch.equal(inputs @ weight.t(), matrices[0] @ matrices[1].t())
            assert torch.equal(gradient @ weight, matrices[2] @ matrices[1])
            assert torch.equal(gradient.t() @ inputs, matrices[2].t() @ matrices[0])


# The smaller copy is the left matrix's in one of them, the product's in the other.
@pytest.mark.parametrize(("rows", "inner", "columns"), [(100, 300, 800), (4000, 300, 50)])
def test_whichever_copy_is_smaller(rows: int, inner: int, columns: int) -> None:
    left, right = _by_column(rows, inner), torch.randn(inner, columns)
    with products_through_onednn():
        assert ONEDNN in _operators(lambda: left @ right)
        product = left @ right
    assert product.is_contiguous()
    _assert_close(product, left, right)


def test_gradients_are_right() -> None:
    inputs, weight = torch.randn(2, 250, 128, requires_grad=True), torch.randn(384, 128, requires_grad=True)
    gradient = torch.randn(2, 250, 384)
    with products_through_onednn():
        torch.nn.functional.linear(inputs, weight).backward(gradient)
    assert weight.grad is not None and inputs.grad is not None
    flat = gradient.flatten(0, 1)
    _assert_close(weight.grad, flat.t(), inputs.detach().flatten(0, 1))
    _assert_close(inputs.grad.flatten(0, 1), flat, weight.detach())


def test_large_fp32_alone_goes_to_onednn() -> None:
    large = torch.randn(256, 256)
    before = _operators(lambda: large @ large)
    small, double, half = torch.randn(64, 64), large.double(), large.bfloat16()
    with products_through_onednn():
        assert ONEDNN in _operators(lambda: large @ large)
        for other in (small, double, half, _cut_out(256, 256)):
            assert ONEDNN not in _operators(lambda other=other: other @ other.t())  # type: ignore[misc]
        assert torch.equal(double @ double, torch.mm(double, double.clone()))
    assert _operators(lambda: large @ large) == before


@pytest.mark.parametrize("other", [torch.randn(300, 300), torch.randn(256, 300).double()])
def test_what_does_not_fit_has_torchs_error(other: Tensor) -> None:
    large = torch.randn(256, 256)
    with pytest.raises(RuntimeError) as expected:
        large @ other
    with products_through_onednn(), pytest.raises(RuntimeError) as found:
        large @ other
    assert str(found.value) == str(expected.value)


@pytest.mark.parametrize(
    ("vendor", "capability", "preferred"),
    [("AuthenticAMD", "AVX512", True), ("AuthenticAMD", "AVX2", False), ("GenuineIntel", "AVX512", False)],
)
def test_amd_with_avx512_prefers_onednn(
    vendor: str, capability: str, preferred: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix_products, "cpu_vendor", lambda: vendor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert prefers_onednn() is preferred
