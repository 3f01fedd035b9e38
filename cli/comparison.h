// What `tessera compare` found, as a table, JSON and a picture.
#pragma once

#include <string>
#include <vector>

#include "tessera/analysis/canvas.h"
#include "tessera/config/json.h"

namespace tessera::cli {

// Of one config: a value per seed, or what does not depend on the seed.
struct ComparedModel {
  std::string name;
  int64_t parameters = 0;
  int64_t steps = 0;
  double units = 0;             // seen in training
  std::vector<double> quality;  // the metric
  std::vector<double> units_per_second;
  std::vector<double> peak_memory;  // bytes
  double score_entries = 0;         // per unit, in a forward pass
  double multiply_adds = 0;         // likewise
};

struct Comparison {
  std::string metric;  // "val_loss"
  bool smaller_is_better = true;
  std::string unit;                   // "tokens"
  std::string budget;                 // "steps=1000"
  std::vector<ComparedModel> models;  // the first is the one that others are measured against
};

struct Mean {
  double value = 0;
  double spread = 0;  // standard deviation of the sample; 0 of a single value
};
Mean mean_of(const std::vector<double>& values);

// Indices of the models that no other beats in both: sorted by cost. `cost` smaller is better.
std::vector<size_t> pareto(const std::vector<double>& cost, const std::vector<double>& loss);

std::string table_text(const Comparison& comparison);
Json table_json(const Comparison& comparison);
Canvas draw_trade_off(const Comparison& comparison);

}  // namespace tessera::cli
