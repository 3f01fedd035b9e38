#include "tessera/train/ema_cuda.h"
#include "tessera/train/pieces.h"

namespace tessera {
namespace {

struct Entry {
  float* average;
  const float* weights;
  int64_t count;
};

__global__ void ema_kernel(const Entry* entries, const cuda::PieceRange* ranges, float keep) {
  const cuda::PieceRange r = ranges[blockIdx.x];
  const Entry e = entries[r.tensor];
  const int64_t end = min(e.count, r.begin + cuda::kPieceSize);
  for (int64_t i = r.begin + threadIdx.x; i < end; i += blockDim.x) {
    e.average[i] = keep * e.average[i] + (1 - keep) * e.weights[i];
  }
}

}  // namespace

EmaTable::EmaTable(const TensorList& averages, const std::vector<Parameter>& parameters)
    : device_(averages.at(0).device()) {
  std::vector<Entry> entries;
  std::vector<int64_t> sizes;
  for (size_t i = 0; i < averages.size(); ++i) {
    entries.push_back({cuda::data<float>(averages[i]), cuda::data<float>(parameters[i].weights()),
                       averages[i].numel()});
    sizes.push_back(averages[i].numel());
  }
  const cuda::Pieces pieces(sizes, device_);
  entries_ = cuda::on_device(entries, device_);
  ranges_ = pieces.ranges;
  pieces_ = pieces.count;
}

void EmaTable::update(float keep) const {
  cuda::launch("ema", device_, ema_kernel, static_cast<unsigned>(pieces_), cuda::kPieceThreads, 0,
               static_cast<const Entry*>(entries_.raw_data()),
               static_cast<const cuda::PieceRange*>(ranges_.raw_data()), keep);
}

}  // namespace tessera
