// Sums of products by the names of axes.
#pragma once

#include <concepts>
#include <string_view>

#include "tessera/core/tensor.h"

namespace tessera {

// einsum("b h i d, b h j d -> b h i j", {q, k}): every axis missing on the right is summed over.
// Names are words separated by spaces or, when no term has a space inside, single letters
// ("bhid,bhjd->bhij"). "..." stands for any dimensions, broadcast among the operands; a name twice
// in one operand takes the diagonal; without an arrow the result has the axes that occur once, in
// alphabetical order. Operands are contracted from left to right by views, permutations and matrix
// products; a product of all axes is made only where nothing is summed. f32 or f64. Errors quote
// the pattern. Differentiable any number of times.
Tensor einsum(std::string_view pattern, const TensorList& operands);

template <std::same_as<Tensor>... In>
Tensor einsum(std::string_view pattern, const Tensor& first, const In&... rest) {
  return einsum(pattern, TensorList{first, rest...});
}

}  // namespace tessera
