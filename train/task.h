// A task joins a model interface and a kind of batch into a loss and metrics. Configs name it:
// "task": "language_modeling". The trainer knows only tasks.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "tessera/data/dataset.h"
#include "tessera/models/model.h"

namespace tessera {

// Sums that average to metrics over any number of batches: value = sum / weight.
class MetricSums {
 public:
  void add(const std::string& name, double sum, double weight);
  double mean(const std::string& name) const;  // throws for a name never added
  std::map<std::string, double> means() const;

 private:
  struct Entry {
    double sum = 0;
    double weight = 0;
  };
  std::map<std::string, Entry> entries_;
};

class Task {
 public:
  static constexpr const char* kKind = "task";
  using Build = std::unique_ptr<Task>();
  virtual ~Task() = default;

  // Throws when the model does not offer the interface that the task wants.
  virtual void check_model(Model& model) const = 0;
  // The mean loss of a batch, differentiable.
  virtual Tensor loss(Model& model, const Batch& batch, const ForwardContext& context) = 0;
  // Adds what evaluation reports about a batch: "loss" at least.
  virtual void evaluate(Model& model, const Batch& batch, const ForwardContext& context,
                        MetricSums& sums) = 0;
  // Metrics made of the averaged ones (perplexity).
  virtual void derive(std::map<std::string, double>& metrics) const { (void)metrics; }
  // What counts as better: the name of a metric, and whether smaller is.
  virtual std::string headline() const { return "loss"; }
  virtual bool smaller_is_better() const { return true; }
  // What one element of the batch is called in throughput ("tokens", "images"), and how many.
  virtual std::string unit() const = 0;
  virtual int64_t units(const Batch& batch) const = 0;
};

// The task's loss of a batch with what layers add to it: what training minimises.
Tensor training_loss(Task& task, Model& model, const Batch& batch, const LayerContext& context);

// The model as the interface a task wants, or an Error that names both.
template <class Interface>
Interface& as(Model& model, const char* task, const char* interface) {
  auto* wanted = dynamic_cast<Interface*>(&model);
  check(wanted != nullptr, "task: {} wants {}, but {} is none; change task or model.type", task,
        interface, model.type_name());
  return *wanted;
}

}  // namespace tessera
