#include "tessera/train/task.h"

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

}  // namespace tessera
