// Naming the class of images.
#pragma once

#include <string>
#include <vector>

#include "tessera/models/model.h"

namespace tessera {

struct Prediction {
  int64_t label = 0;
  double probability = 0;
};

// The `top` most probable classes of each image of a preprocessed batch (B, C, H, W), best first;
// equal probabilities in the order of labels.
std::vector<std::vector<Prediction>> classify(ImageClassifier& model, const Tensor& images,
                                              int64_t top);

}  // namespace tessera
