#include "tessera/autograd/ops/arguments.h"

#include "tessera/core/kernels/copy.h"

namespace tessera::detail {
namespace {

bool computes_in(DType dtype, Device device) {
  return dtype == DType::f32 || dtype == DType::f64 || (device.is_cuda() && is_half(dtype));
}

}  // namespace

void check_floating(std::string_view op, const Tensor& x) {
  check(computes_in(x.dtype(), x.device()),
        "{}: wants f32 or f64, got {} of shape {}; convert with to(DType::f32)", op, x.dtype(),
        x.shape());
}

std::pair<Tensor, Tensor> promoted(std::string_view op, const Tensor& a, const Tensor& b) {
  const DType dtype = promote(a.dtype(), b.dtype());
  check(computes_in(dtype, a.device()),
        "{}: wants f32 or f64, got {} and {}; convert with to(DType::f32)", op, a.dtype(),
        b.dtype());
  return {a.to(dtype), b.to(dtype)};
}

Tensor checked_ids(std::string_view op, std::string_view what, const Tensor& ids, int64_t bound,
                   std::optional<int64_t> ignored) {
  check(ids.defined(), "{}: the {} tensor is missing", op, what);
  check(is_integral(ids.dtype()) && ids.dtype() != DType::boolean,
        "{}: the {} tensor must hold integers, got {} of shape {}", op, what, ids.dtype(),
        ids.shape());
  const Tensor dense = kernels::contiguous(kernels::cast(ids, DType::i64));
  if (dense.device().is_cuda()) return dense;
  const int64_t* id = dense.data<int64_t>();
  for (int64_t i = 0; i < dense.numel(); ++i) {
    if ((id[i] >= 0 && id[i] < bound) || (ignored && id[i] == *ignored)) continue;
    fail("{}: {} {} at {} is not in [0, {}){}", op, what, id[i], position_text(i, ids.shape()),
         bound, ignored ? fmt::format(" and not the ignored {}", *ignored) : "");
  }
  return dense;
}

std::string position_text(int64_t flat, const Shape& shape) {
  Shape index = shape;
  for (int64_t d = shape.rank() - 1; d >= 0; --d) {
    index[d] = flat % shape[d];
    flat /= shape[d];
  }
  return fmt::format("[{}]", fmt::join(index, ", "));
}

}  // namespace tessera::detail
