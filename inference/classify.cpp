#include "tessera/inference/classify.h"

#include <algorithm>

#include "tessera/autograd/ops/softmax.h"
#include "tessera/autograd/tape.h"

namespace tessera {

std::vector<std::vector<Prediction>> classify(ImageClassifier& model, const Tensor& images,
                                              int64_t top) {
  NoGrad off;
  const Tensor probabilities = softmax(model.logits(images.to(model.device())).to(DType::f32), -1);
  const std::vector<float> flat = probabilities.to_vector<float>();
  const auto classes = static_cast<size_t>(probabilities.size(1));
  std::vector<std::vector<Prediction>> result;
  for (size_t i = 0; i * classes < flat.size(); ++i) {
    std::vector<Prediction> row;
    for (size_t c = 0; c < classes; ++c) {
      row.push_back({static_cast<int64_t>(c), flat[i * classes + c]});
    }
    std::stable_sort(row.begin(), row.end(), [](const Prediction& a, const Prediction& b) {
      return a.probability > b.probability;
    });
    row.resize(std::min(classes, static_cast<size_t>(std::max<int64_t>(0, top))));
    result.push_back(std::move(row));
  }
  return result;
}

}  // namespace tessera
