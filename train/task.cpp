#include "tessera/train/task.h"

#include "tessera/autograd/ops/arithmetic.h"

namespace tessera {

void MetricSums::add(const std::string& name, double sum, double weight) {
  Entry& entry = entries_[name];
  entry.sum += sum;
  entry.weight += weight;
}

double MetricSums::mean(const std::string& name) const {
  const auto found = entries_.find(name);
  check(found != entries_.end(), "metrics: \"{}\" was never measured", name);
  return found->second.weight > 0 ? found->second.sum / found->second.weight : 0;
}

std::map<std::string, double> MetricSums::means() const {
  std::map<std::string, double> result;
  for (const auto& [name, entry] : entries_) result[name] = mean(name);
  return result;
}

Tensor training_loss(Task& task, Model& model, const Batch& batch, const LayerContext& context) {
  Auxiliary auxiliary;
  ForwardContext forward{.layer = context};
  forward.layer.auxiliary = &auxiliary;
  Tensor loss = task.loss(model, batch, forward);
  for (const Tensor& more : auxiliary.losses) loss = loss + more.to(loss.dtype());
  return loss;
}

}  // namespace tessera
