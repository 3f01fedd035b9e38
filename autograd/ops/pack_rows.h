// Ragged rows: the chosen entries of every sequence packed to its front, and back. Lengths stay on
// the device: a packed row keeps room for all N entries, its count says how many are there.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

// Where entries go. Chosen ones come first, in their order; the others follow, in theirs.
struct Packing {
  Tensor chosen;  // bool (B, N): entry t is among the packed ones
  Tensor filled;  // bool (B, N): place i has one
  Tensor place;   // i64 (B, N): of entry t
  Tensor entry;   // i64 (B, N): at place i
  Tensor count;   // i64 (B): how many are packed
};

// chosen bool (B, N). Reads nothing on the host.
Packing packing_of(const Tensor& chosen);

// y[b, i] = x[b, entry[b, i]] for i < count[b], 0 after; x (B, N, …). unpack_rows is its adjoint:
// y[b, t] = x[b, place[b, t]] where chosen, 0 elsewhere. Unpacking what was packed leaves the
// chosen entries and zeros. Both are differentiable any number of times.
Tensor pack_rows(const Tensor& x, const Packing& packing);
Tensor unpack_rows(const Tensor& x, const Packing& packing);

}  // namespace tessera
