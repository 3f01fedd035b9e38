// Tensors as text.
#pragma once

#include <iosfwd>
#include <string>

#include "tessera/core/tensor.h"

namespace tessera {

// Nested brackets as NumPy prints them, values right-aligned with four significant digits (all
// digits for integers), scientific when their range needs it. Of more than 1000 elements only the
// first and last few along each dimension are shown, and only they are read. The dtype and shape
// follow unless the tensor is f32, shown in full and not empty:
//
//   [[ 1.0, -0.5],                     [0, 1, 2, …, 1997, 1998, 1999] i64 (2000)
//    [ nan,  2.0]]
std::string to_string(const Tensor& x);
std::ostream& operator<<(std::ostream& stream, const Tensor& x);

}  // namespace tessera
