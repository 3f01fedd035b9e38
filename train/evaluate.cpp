#include "tessera/train/evaluate.h"

#include <fmt/format.h>

#include "tessera/data/loader.h"

namespace tessera {
namespace {

// What layers gave beside their output, weighted like the batch it belongs to.
void add_auxiliary(const Auxiliary& a, double weight, MetricSums& sums) {
  double losses = 0;
  for (const Tensor& loss : a.losses) losses += loss.to(DType::f64).item();
  if (!a.losses.empty()) sums.add("auxiliary_loss", losses * weight, weight);
  for (const auto& [name, layers] : a.figures) {
    for (size_t i = 0; i < layers.size(); ++i) {
      const std::vector<double> values = layers[i].to(DType::f64).to_vector<double>();
      const std::string layer = fmt::format("{}.{}", name, i);
      for (size_t k = 0; k < values.size(); ++k) {
        if (values.size() > 1) sums.add(fmt::format("{}.{}", layer, k), values[k] * weight, weight);
      }
      if (values.size() != 1) continue;
      sums.add(layer, values[0] * weight, weight);
      sums.add(name, values[0] * weight, weight);
    }
  }
}

}  // namespace

std::map<std::string, double> evaluate(Model& model, Task& task, const Dataset& data, Split split,
                                       const EvaluateOptions& options) {
  const int64_t size = data.size(split);
  check(size > 0, "eval: the data has no {} split", to_string(split));
  check(size < kEndless || options.batches > 0,
        "eval: the {} split is endless; set train.eval_batches", to_string(split));
  const Device device = model.device();
  const bool was_training = model.training();
  model.eval();
  MetricSums sums;
  std::vector<int64_t> indices;
  for (int64_t b = 0, at = 0; at < size && (options.batches == 0 || b < options.batches); ++b) {
    indices.clear();
    for (; at < size && static_cast<int64_t>(indices.size()) < options.batch; ++at) {
      indices.push_back(at);
    }
    const Batch batch = to_device(data.get(split, indices, options.seed), device);
    Auxiliary auxiliary;
    task.evaluate(model, batch, {.layer = {.auxiliary = &auxiliary}}, sums);
    add_auxiliary(auxiliary, static_cast<double>(task.units(batch)), sums);
  }
  model.train(was_training);
  std::map<std::string, double> metrics = sums.means();
  task.derive(metrics);
  return metrics;
}

}  // namespace tessera
