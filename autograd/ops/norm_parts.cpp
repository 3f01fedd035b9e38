#include "tessera/autograd/ops/norm_parts.h"

#include "tessera/autograd/pointwise.h"

namespace tessera::detail {
namespace {

struct InverseRoot {
  static constexpr std::string_view name = "inverse_root";
  double eps;
  template <class T>
  TESSERA_HD T operator()(T x) const {
    return math::rsqrt(x + constant<T>(eps));
  }
};

}  // namespace

Tensor inverse_root(const Tensor& x, double eps) {
  return pointwise(InverseRoot{eps}, x);
}

Tensor normalized(const Tensor& x, bool centered, double eps) {
  const double share = 1.0 / static_cast<double>(x.size(-1));
  const Tensor d = centered ? x - sum(x, {-1}, true) * share : x;
  return d * inverse_root(sum(d * d, {-1}, true) * share, eps);
}

Tensor dense_or(const Tensor& parameter, double value, int64_t size, DType dtype) {
  return parameter.defined() ? kernels::contiguous(kernels::cast(parameter, dtype))
                             : full({size}, value, {dtype, {}});
}

void check_parameter(std::string_view op, const char* what, const Tensor& x, const Tensor& p,
                     const Shape& shape) {
  if (!p.defined()) return;
  check(p.shape() == shape, "{}: {} has shape {}, but x {} wants {}", op, what, p.shape(),
        x.shape(), shape);
  const bool fits = p.dtype() == x.dtype() || p.dtype() == statistics_dtype(x);
  check(fits && p.device() == x.device(),
        "{}: {} is {} on {}, but x is {} on {}; convert one with to()", op, what, p.dtype(),
        p.device(), x.dtype(), x.device());
}

}  // namespace tessera::detail
