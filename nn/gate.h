// Gates: which experts compute a row, and with what weight. Configs name them:
// "gate": {"type": "topk", …}. Any layer of experts takes any gate.
#pragma once

#include <memory>
#include <optional>

#include "tessera/config/registry.h"
#include "tessera/nn/context.h"
#include "tessera/nn/permutation.h"

namespace tessera {

struct GateGeometry {
  int64_t width = 0;    // of the rows that the gate reads
  int64_t experts = 1;  // n
  int64_t k = 1;        // experts per row, or trees, or selectors
  int64_t ids = 0;      // how many ids there are, where they are known
};

// What a gate says of T rows. All but the indices are f32 (f64 of f64 rows).
struct GateResult {
  Tensor weights = {};  // (T, n) ≥ 0; an expert computes the rows for which it is not 0
  Tensor indices = {};  // i64 (T, k), different ones, where each row has k experts; else undefined
  bool dense = false;   // every expert has weight everywhere
  Tensor probabilities =
      {};              // (T, n) before the choice, rows that sum to 1; undefined: the weights
  Tensor logits = {};  // (T, n) of those probabilities; undefined where there are none
};

class Gate : public Module {
 public:
  static constexpr const char* kKind = "gate";
  using Build = std::unique_ptr<Gate>(const GateGeometry&);

  // Rows x (T, width); ids i64 (T) of what the rows stand for, or undefined. Losses of the gate go
  // to the context.
  virtual GateResult operator()(const Tensor& x, const LayerContext& context,
                                const Tensor& ids) = 0;
};

// The result with its experts renamed by a searched permutation Π: weights Π, the same for the
// probabilities. The result itself when there is no search.
GateResult permuted(const GateResult& result, std::optional<PermutationSearch>& search,
                    const LayerContext& context);

// Σ −p ln(p + 1e-6) over the last dimensions of (T, …), averaged over the T rows.
Tensor row_entropy(const Tensor& p);

}  // namespace tessera
