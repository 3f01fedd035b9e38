// The kernels of norm_rows.h on CUDA.
#pragma once

#include "tessera/autograd/ops/norm_rows.h"

namespace tessera::detail {

void norm_rows_cuda(const NormRows& rows, const NormRows::Forward& f);
void norm_rows_backward_cuda(const NormRows& rows, const NormRows::Backward& b);

// gw[i] = Σ_p partials[p, 0, i] and gb[i] = Σ_p partials[p, 1, i], added in a fixed order;
// undefined results are left out. partials (P, 2, size) in the statistics' dtype of the results.
void add_partials_cuda(std::string_view op, const Tensor& partials, const Tensor& gw,
                       const Tensor& gb);

}  // namespace tessera::detail
