// Reshapes, permutations, repetitions and reductions by pattern (Rogozhnikov 2022, "Einops").
//
//   rearrange("b n (h d) -> b h n d", x, {{"h", heads}})     split and move: a view
//   rearrange("b h n d -> b n (h d)", x)                     merge: copies if strides need it
//   repeat("h w -> h (w 2)", x)                              every column twice
//   reduce("b (h s) (w t) -> b h w", x, "mean", {{"s", 2}, {"t", 2}})
//
// Names are words separated by spaces; parentheses merge axes, the first varies slowest; "..."
// stands for any dimensions; "1" for one of size 1. In a group one size may stay open. Errors quote
// the pattern. Differentiable as far as the reduction is.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "tessera/core/tensor.h"

namespace tessera {

using AxisSizes = std::map<std::string, int64_t, std::less<>>;

// The same elements under another order and grouping of axes; both sides name the same axes.
Tensor rearrange(std::string_view pattern, const Tensor& x, const AxisSizes& sizes = {});

// The right side has further axes, of given sizes or written as numbers: x is repeated along them.
Tensor repeat(std::string_view pattern, const Tensor& x, const AxisSizes& sizes = {});

// The right side lacks some axes: "sum", "mean", "max" or "min" over them.
Tensor reduce(std::string_view pattern, const Tensor& x, std::string_view reduction,
              const AxisSizes& sizes = {});

}  // namespace tessera
