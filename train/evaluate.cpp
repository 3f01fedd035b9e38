#include "tessera/train/evaluate.h"

#include "tessera/data/loader.h"

namespace tessera {

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
    task.evaluate(model, to_device(data.get(split, indices, options.seed), device), sums);
  }
  model.train(was_training);
  std::map<std::string, double> metrics = sums.means();
  task.derive(metrics);
  return metrics;
}

}  // namespace tessera
