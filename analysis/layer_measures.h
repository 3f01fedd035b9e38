// CRATE's measures of a model's layers.
#pragma once

#include <vector>

#include "tessera/models/model.h"

namespace tessera {

struct LayerMeasures {
  double rate = 0, rate_deviation = 0;  // R^c of U_inᵀ LN₁(Z), what attention reads: over the batch
  double rate_after = 0;  // R^c of U_inᵀ LN₁(Z^(l + ½)): after the compressing step
  double nonzeros = 0;    // share of the entries of Z^(l + 1) that are not 0
  // Cosine of the layer's step MSSA(x) − x and of −∇R^c(x), in the mean over the batch.
  double step_cosine = 0;
};

// Of every block with mssa and ista, from one pass over `input` (tokens or images) on the CPU in
// evaluation mode; throws when there is none.
std::vector<LayerMeasures> measure_layers(Model& model, const Tensor& input);

// The model of a run's config as it was before training.
std::unique_ptr<Model> untrained(const Json& config, const DataInfo& info);

}  // namespace tessera
