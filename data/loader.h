// Batches in a deterministic order, made ahead of time on threads.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "tessera/data/dataset.h"

namespace tessera {

struct LoaderOptions {
  int64_t batch = 1;
  uint64_t seed = 1;
  bool shuffle = true;
  int threads = 0;        // 0 makes each batch inside next()
  bool drop_last = true;  // leave out the short batch at the end of an epoch
};

// The same tensors on a device.
Batch to_device(const Batch& batch, Device device);

// Batches consumed so far: `step` of them in `epoch`.
struct LoaderPosition {
  int64_t epoch = 0;
  int64_t step = 0;
  bool operator==(const LoaderPosition&) const = default;
};

// Endless: after an epoch the next one begins, in another order. Batch (epoch, step) depends on the
// dataset, the seed and these two numbers alone: the order is a keyed permutation of the indices,
// augmentation is keyed by (seed, epoch, index). Threads never change what comes out. One consumer.
class Loader {
 public:
  // Throws Error when the split holds less than one batch.
  Loader(const Dataset& dataset, Split split, const LoaderOptions& options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  Batch next();  // rethrows what the dataset threw, then goes on behind that batch
  int64_t steps_per_epoch() const { return steps_; }
  LoaderPosition position() const;  // of what next() gave out, whatever was prefetched
  void seek(const LoaderPosition& position);

 private:
  struct Made {
    Batch batch;
    std::exception_ptr error;
  };
  Batch make(int64_t number) const;
  Made try_make(int64_t number) const;
  void work();

  const Dataset& dataset_;
  const Split split_;
  const LoaderOptions options_;
  const int64_t size_;
  const int64_t steps_;

  mutable std::mutex mutex_;
  std::condition_variable wanted_;  // workers wait: there is a batch to make
  std::condition_variable ready_;   // next() waits: its batch was made
  std::map<int64_t, Made> made_;    // by batch number, epoch * steps + step
  int64_t consumed_ = 0;
  int64_t claimed_ = 0;
  int64_t sought_ = 0;  // calls of seek: a batch claimed before the last one is dropped
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace tessera
