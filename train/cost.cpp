#include "tessera/train/cost.h"

#include <numeric>

#include "tessera/attention/engines/engine.h"
#include "tessera/attention/engines/work.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/kernels/gemm.h"

namespace tessera {
namespace {

// Shapes of what the model's own interface gives; they follow from its inputs.
std::vector<std::pair<std::string, Shape>> outputs_of(Model& model, const Batch& batch) {
  if (auto* lm = dynamic_cast<LanguageModel*>(&model)) {
    const Shape& in = batch.at("tokens").shape();
    const Shape head = lm->head().shape();
    return {{"hidden", {in[0], in[1], head[1]}}, {"logits", {in[0], in[1], head[0]}}};
  }
  if (auto* classifier = dynamic_cast<ImageClassifier*>(&model)) {
    return {{"logits", classifier->logits(batch.at("images"), {}).shape()}};
  }
  return {};
}

}  // namespace

Cost forward_cost(Task& task, Model& model, const Batch& batch) {
  const NoGrad off;
  Cost cost;
  for (const auto& [name, tensor] : batch) cost.inputs.emplace_back(name, tensor.shape());
  cost.units = task.units(batch);
  cost.outputs = outputs_of(model, batch);
  model.train();
  const int64_t flops = kernels::gemm_flops(), adds = engine::multiply_adds();
  const int64_t entries = score_entries();
  (void)task.loss(model, batch, {});
  cost.multiply_adds = (kernels::gemm_flops() - flops) / 2 + engine::multiply_adds() - adds;
  cost.score_entries = score_entries() - entries;
  return cost;
}

Batch first_batch(const Dataset& data, int64_t count) {
  std::vector<int64_t> indices(static_cast<size_t>(std::min(count, data.size(Split::train))));
  std::iota(indices.begin(), indices.end(), 0);
  return data.get(Split::train, indices, 1);
}

}  // namespace tessera
