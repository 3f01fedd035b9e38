#include "tessera/nn/gate.h"

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/indexing.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"

namespace tessera {

GateResult permuted(const GateResult& result, std::optional<PermutationSearch>& search,
                    const LayerContext& context) {
  if (!search) return result;
  const Tensor pi = select((*search)(context), 0, 0).to(result.weights.dtype());
  GateResult r = result;
  r.weights = matmul(result.weights, pi);
  if (result.probabilities.defined()) r.probabilities = matmul(result.probabilities, pi);
  if (search->searching(context)) {  // a soft Π gives weight to all
    r.indices = {};
    r.dense = true;
  } else if (result.indices.defined()) {
    const Tensor named = index_select(select(search->columns(), 0, 0), 0, flatten(result.indices));
    r.indices = reshape(named, result.indices.shape());
  }
  return r;
}

Tensor row_entropy(const Tensor& p) {
  return -sum(p * log(p + 1e-6)) / static_cast<double>(p.size(0));
}

}  // namespace tessera
