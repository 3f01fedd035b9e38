// Reading and writing by index where the tensors lie on a CUDA device, and the stable sort behind
// additions and the ops that sort. An index out of range stops the program.
#pragma once

#include <utility>

#include "tessera/core/tensor.h"

namespace tessera::kernels {

Tensor take_cuda(const Tensor& x, int64_t dim, const Tensor& ids);
void add_at_cuda(const Tensor& y, int64_t dim, const Tensor& ids, const Tensor& src);
Tensor gather_cuda(const Tensor& x, int64_t dim, const Tensor& index);
void scatter_cuda(const Tensor& y, int64_t dim, const Tensor& index, const Tensor& src);
void scatter_add_cuda(const Tensor& y, int64_t dim, const Tensor& index, const Tensor& src);

// Keys (N), i64 read as unsigned, and their values (N), i32 read as unsigned, in ascending order of
// the lowest `bits` bits of the keys; equal ones keep their order. The inputs serve as scratch.
std::pair<Tensor, Tensor> sort_pairs_cuda(std::string_view op, const Tensor& keys,
                                          const Tensor& values, int bits);
// The bits that numbers below `bound` need.
int bits_below(int64_t bound);

}  // namespace tessera::kernels
