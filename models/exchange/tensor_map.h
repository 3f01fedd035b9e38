// The tensors of another library's checkpoint, by a table: our name, theirs, what lies between.
#pragma once

#include <string>
#include <vector>

#include "tessera/nn/module.h"

namespace tessera {

// One row. "{}" in a name stands for the number of a block.
struct TensorRule {
  std::string ours;
  std::vector<std::string> theirs;  // three are queries, keys and values, joined by rows
  bool transposed = false;          // theirs is (in, out), ours (out, in)
};

struct TensorMap {
  std::string prefix;  // of their names; some files leave it out
  std::vector<TensorRule> rules;
  std::vector<std::string> ignored = {};  // what may be there besides: masks, tied copies
};

// Rows of queries, keys and values in a joined matrix.
using JoinedRows = std::vector<int64_t>;

// The tensors of `model` (names and shapes as in its state) made of theirs, as f32. Missing,
// surplus and wrongly shaped ones are named, all in one Error.
NamedTensors to_ours(const TensorMap& map, const JoinedRows& rows, const NamedTensors& model,
                     const NamedTensors& theirs);

// The inverse; throws for a tensor that the table has no row for.
NamedTensors to_theirs(const TensorMap& map, const JoinedRows& rows, const NamedTensors& ours);

}  // namespace tessera
