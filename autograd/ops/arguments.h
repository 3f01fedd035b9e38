// Checks of arguments that several ops share. Every error begins with the op's name.
#pragma once

#include <optional>
#include <string>

#include "tessera/core/tensor.h"

namespace tessera::detail {

// x must be f32 or f64, or a half on CUDA: halves are storage on the CPU and integers have no
// gradient.
void check_floating(std::string_view op, const Tensor& x);

// Both converted to their promoted dtype, which must be one that check_floating takes.
std::pair<Tensor, Tensor> promoted(std::string_view op, const Tensor& a, const Tensor& b);

// Ids as dense i64, each in [0, bound) or equal to `ignored`; the error names `what` ("id",
// "target"), the first bad value and its position. Ids on CUDA are checked by the kernels that use
// them, which stop the program.
Tensor checked_ids(std::string_view op, std::string_view what, const Tensor& ids, int64_t bound,
                   std::optional<int64_t> ignored = {});

// The index of an element counted in row-major order: "[1, 0, 2]".
std::string position_text(int64_t flat, const Shape& shape);

}  // namespace tessera::detail
