#include "tessera/models/model.h"

#include "tessera/autograd/ops/matmul.h"

namespace tessera {

Tensor LanguageModel::logits(const Tensor& tokens, const ForwardContext& context) {
  return linear(hidden(tokens, context), head(), {});
}

}  // namespace tessera
