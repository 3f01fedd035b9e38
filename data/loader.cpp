#include "tessera/data/loader.h"

#include <algorithm>
#include <numeric>

#include "tessera/core/kernels/copy.h"

namespace tessera {

namespace {

int64_t count_steps(int64_t size, const LoaderOptions& options) {
  check(options.batch > 0, "loader: batch {} must be positive", options.batch);
  check(options.threads >= 0 && options.threads <= 64, "loader: threads {} is outside 0 … 64",
        options.threads);
  const int64_t steps =
      options.drop_last ? size / options.batch : (size + options.batch - 1) / options.batch;
  check(steps > 0,
        "loader: the split has {} elements, fewer than one batch of {}; use a smaller "
        "batch or more data",
        size, options.batch);
  return steps;
}

}  // namespace

Batch to_device(const Batch& batch, Device device) {
  Batch moved;
  for (const auto& [name, tensor] : batch) moved[name] = kernels::to_device(tensor, device);
  return moved;
}

Loader::Loader(const Dataset& dataset, Split split, const LoaderOptions& options)
    : dataset_(dataset),
      split_(split),
      options_(options),
      size_(dataset.size(split)),
      steps_(count_steps(size_, options)) {
  for (int i = 0; i < options.threads; ++i) threads_.emplace_back([this] { work(); });
}

Loader::~Loader() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wanted_.notify_all();
  for (auto& thread : threads_) thread.join();
}

Batch Loader::make(int64_t number) const {
  const auto epoch = static_cast<uint64_t>(number / steps_);
  const int64_t first = number % steps_ * options_.batch;
  std::vector<int64_t> indices(static_cast<size_t>(std::min(options_.batch, size_ - first)));
  std::iota(indices.begin(), indices.end(), first);
  if (options_.shuffle) {
    for (auto& index : indices) index = permuted_index(index, size_, {options_.seed, epoch});
  }
  return dataset_.get(split_, indices, mix(options_.seed, epoch));
}

Loader::Made Loader::try_make(int64_t number) const {
  try {
    return {make(number), nullptr};
  } catch (...) {
    return {{}, std::current_exception()};
  }
}

void Loader::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    // Each thread may be one batch ahead, and one batch lies ready beside those.
    wanted_.wait(lock, [&] { return stop_ || claimed_ <= consumed_ + options_.threads; });
    if (stop_) return;
    const int64_t number = claimed_++;
    const int64_t sought = sought_;
    lock.unlock();
    Made made = try_make(number);
    lock.lock();
    if (sought != sought_) continue;
    made_.emplace(number, std::move(made));
    ready_.notify_one();
  }
}

Batch Loader::next() {
  Made made;
  {
    std::unique_lock lock(mutex_);
    const int64_t number = consumed_;
    if (options_.threads == 0) {
      made = try_make(number);
    } else {
      ready_.wait(lock, [&] { return made_.contains(number); });
      made = std::move(made_.extract(number).mapped());
    }
    ++consumed_;
  }
  wanted_.notify_one();
  if (made.error) std::rethrow_exception(made.error);
  return std::move(made.batch);
}

LoaderPosition Loader::position() const {
  const std::lock_guard lock(mutex_);
  return {consumed_ / steps_, consumed_ % steps_};
}

void Loader::seek(const LoaderPosition& position) {
  constexpr int64_t limit = int64_t{1} << 62;
  check(position.epoch >= 0 && position.epoch < limit / steps_ && position.step >= 0 &&
            position.step < steps_,
        "loader: position epoch {} step {} is outside this data of {} steps per epoch",
        position.epoch, position.step, steps_);
  {
    const std::lock_guard lock(mutex_);
    made_.clear();
    ++sought_;
    consumed_ = claimed_ = position.epoch * steps_ + position.step;
  }
  wanted_.notify_all();
}

}  // namespace tessera
