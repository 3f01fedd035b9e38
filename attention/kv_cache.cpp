#include "tessera/attention/kv_cache.h"

#include <numeric>

#include "tessera/attention/kv_cache_cuda.h"
#include "tessera/core/create.h"
#include "tessera/core/cuda/capture.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

Tensor from_sizes(std::span<const int64_t> sizes, const Shape& shape) {
  return from_values(std::vector<int32_t>(sizes.begin(), sizes.end()), shape);
}

// Of the first lengths[b] tokens of (B, H, N, D) the last counts[b], at the front.
Tensor newest(const Tensor& x, std::span<const int64_t> lengths, std::span<const int64_t> counts) {
  const auto same = [](std::span<const int64_t> n) {
    return std::all_of(n.begin(), n.end(), [&](int64_t i) { return i == n[0]; });
  };
  if (same(lengths) && same(counts)) {
    return kernels::clone(views::slice(x, 2, lengths[0] - counts[0], lengths[0]));
  }
  const int64_t most = *std::max_element(counts.begin(), counts.end());
  const Tensor tails = zeros({x.size(0), x.size(1), most, x.size(3)}, {x.dtype(), x.device()});
  for (size_t b = 0; b < counts.size(); ++b) {
    const auto row = static_cast<int64_t>(b);
    kernels::copy(views::slice(views::select(tails, 0, row), 1, 0, counts[b]),
                  views::slice(views::select(x, 0, row), 1, lengths[b] - counts[b], lengths[b]));
  }
  return tails;
}

int64_t pages_for(int64_t tokens, int64_t page_size) {
  return (tokens + page_size - 1) / page_size;
}

}  // namespace

PagePool::PagePool(int64_t pages, int64_t page_size) : pages_(pages), page_size_(page_size) {
  check(pages > 0 && page_size > 0 && pages < INT32_MAX && page_size < INT32_MAX,
        "page_pool: {} pages of {} tokens; both must be positive", pages, page_size);
  free_.resize(static_cast<size_t>(pages));
  std::iota(free_.rbegin(), free_.rend(), 0);
}

KvCache::Pages::~Pages() {
  for (size_t b = 0; b < of.size(); ++b) shrink(b, 0);
}

void KvCache::Pages::shrink(size_t sequence, size_t count) {
  std::vector<int32_t>& list = of[sequence];
  while (list.size() > count) {
    pool->free_.push_back(list.back());
    list.pop_back();
  }
}

KvCache::KvCache(int64_t capacity, CacheOptions options)
    : capacity_(capacity), options_(std::move(options)) {
  check(capacity > 0 && capacity < INT32_MAX, "kv_cache: a capacity of {} tokens", capacity);
  check(!options_.dtype || is_floating(*options_.dtype), "kv_cache: cannot store {}",
        *options_.dtype);
}

KvCache::~KvCache() = default;

void KvCache::check_fits(const Tensor& key, const Tensor& value) const {
  check(key.rank() == 4 && value.rank() == 4, "kv_cache: wants (B, H, N, D), got {} and {}",
        key.shape(), value.shape());
  check(key.size(0) == value.size(0) && key.size(1) == value.size(1) &&
            key.size(2) == value.size(2) && key.device() == value.device(),
        "kv_cache: keys {} on {} and values {} on {} do not fit one another", key.shape(),
        key.device(), value.shape(), value.device());
  check(!options_.shared || key.size(3) == value.size(3),
        "kv_cache: keys {} and values {} are to be one tensor", key.shape(), value.shape());
  if (!view_.key.defined()) return;
  check(key.size(0) == view_.lengths.size(0) && key.size(1) == view_.key.size(1) &&
            key.size(3) == view_.key.size(3) && value.size(3) == view_.value.size(3) &&
            key.device() == view_.key.device(),
        "kv_cache: keys {} and values {} on {} do not fit the stored {} and {} of {} sequences on "
        "{}",
        key.shape(), value.shape(), key.device(), view_.key.shape(), view_.value.shape(),
        view_.lengths.size(0), view_.key.device());
}

void KvCache::start(const Tensor& key, const Tensor& value) {
  const int64_t batch = key.size(0);
  const Options options{options_.dtype.value_or(key.dtype()), key.device()};
  auto room = [&](int64_t first, int64_t tokens, const Tensor& x) {
    return zeros({first, x.size(1), tokens, x.size(3)}, options);
  };
  if (PagePool* pool = options_.pool.get()) {
    if (!pool->key_.defined()) {
      pool->key_ = room(pool->pages_, pool->page_size_, key);
      pool->value_ = options_.shared ? pool->key_ : room(pool->pages_, pool->page_size_, value);
    }
    check(pool->key_.dtype() == options.dtype && pool->key_.device() == options.device &&
              pool->key_.size(1) == key.size(1) && pool->key_.size(3) == key.size(3) &&
              pool->value_.size(3) == value.size(3) &&
              pool->key_.is_same(pool->value_) == options_.shared,
          "kv_cache: the pool's pages {} in {} on {} do not fit keys {} in {} on {}",
          pool->key_.shape(), pool->key_.dtype(), pool->key_.device(), key.shape(), options.dtype,
          options.device);
    view_.key = pool->key_;
    view_.value = pool->value_;
    view_.table =
        zeros({batch, pages_for(capacity_, pool->page_size_)}, {DType::i32, options.device});
    pages_ = std::make_unique<Pages>();
    pages_->pool = options_.pool;
    pages_->of.resize(static_cast<size_t>(batch));
  } else {
    view_.key = room(batch, capacity_, key);
    view_.value = options_.shared ? view_.key : room(batch, capacity_, value);
  }
  view_.lengths = zeros({batch}, {DType::i32, options.device});
  lengths_.assign(static_cast<size_t>(batch), 0);
  forgotten_ = lengths_;
}

// Sees to it that every sequence has the pages for so many more tokens.
void KvCache::grow(std::span<const int64_t> added) {
  for (size_t b = 0; b < lengths_.size(); ++b) {
    check(lengths_[b] + added[b] <= capacity_,
          "kv_cache: {} tokens stored, {} more exceed the capacity {}", lengths_[b], added[b],
          capacity_);
  }
  if (!pages_) return;
  PagePool& pool = *pages_->pool;
  std::vector<int64_t> missing(lengths_.size());
  for (size_t b = 0; b < lengths_.size(); ++b) {
    missing[b] = std::max<int64_t>(0, pages_for(lengths_[b] + added[b], pool.page_size_) -
                                          static_cast<int64_t>(pages_->of[b].size()));
  }
  const int64_t total = std::accumulate(missing.begin(), missing.end(), int64_t{0});
  check(total <= pool.free_pages(),
        "kv_cache: {} pages are needed and {} of {} are free; make the pool larger", total,
        pool.free_pages(), pool.pages());
  if (total == 0) return;
  const int64_t columns = view_.table.size(1);
  std::vector<int32_t> table(static_cast<size_t>(view_.table.numel()), 0);
  for (size_t b = 0; b < lengths_.size(); ++b) {
    std::vector<int32_t>& own = pages_->of[b];
    for (int64_t i = 0; i < missing[b]; ++i) {
      own.push_back(pool.free_.back());
      pool.free_.pop_back();
    }
    std::copy(own.begin(), own.end(), table.begin() + static_cast<ptrdiff_t>(b) * columns);
  }
  kernels::copy(view_.table, from_values(table, view_.table.shape()));
}

Tensor KvCache::piece(const Tensor& storage, size_t sequence, int64_t position,
                      int64_t count) const {
  if (!pages_) {
    return views::slice(views::select(storage, 0, static_cast<int64_t>(sequence)), 1, position,
                        position + count);
  }
  const int64_t size = pages_->pool->page_size_, inside = position % size;
  const int32_t page = pages_->of[sequence][static_cast<size_t>(position / size)];
  return views::slice(views::select(storage, 0, page), 1, inside, std::min(size, inside + count));
}

void KvCache::store(const Tensor& storage, const Tensor& x, std::span<const int64_t> counts) const {
  for (size_t b = 0; b < lengths_.size(); ++b) {
    const Tensor from = views::select(x, 0, static_cast<int64_t>(b));
    for (int64_t t = 0; t < counts[b];) {
      const Tensor to = piece(storage, b, lengths_[b] + t, counts[b] - t);
      kernels::copy(to, views::slice(from, 1, t, t + to.size(1)));
      t += to.size(1);
    }
  }
}

void KvCache::append(const Tensor& key, const Tensor& value, std::span<const int64_t> counts) {
  check_fits(key, value);
  const auto batch = static_cast<size_t>(key.size(0));
  const int64_t added = key.size(2);
  check(counts.empty() || counts.size() == batch, "kv_cache: {} counts for {} sequences",
        counts.size(), batch);
  const std::vector<int64_t> every(batch, added);
  const std::span<const int64_t> each = counts.empty() ? every : counts;
  for (int64_t count : each) {
    check(count >= 0 && count <= added, "kv_cache: a count of {} among {} new tokens", count,
          added);
  }
  if (!view_.key.defined()) start(key, value);
  grow(each);
  const bool equal = std::all_of(each.begin(), each.end(), [&](int64_t n) { return n == added; });
  view_.added =
      equal ? Tensor() : kernels::to_device(from_sizes(each, {key.size(0)}), key.device());
  auto advance = [&] {
    for (size_t b = 0; b < batch; ++b) lengths_[b] += each[b];
  };
  if constexpr (kCuda) {
    if (key.device().is_cuda()) {
      const DType dtype = view_.key.dtype();
      append_cuda(view_, kernels::cast(key, dtype),
                  options_.shared ? Tensor() : kernels::cast(value, dtype), capacity_);
      return advance();
    }
  }
  store(view_.key, key, each);
  if (!options_.shared) store(view_.value, value, each);
  advance();
  upload_lengths();
}

Tensor KvCache::gathered(const Tensor& storage) const {
  check(storage.defined(), "kv_cache: nothing is stored yet");
  check(!is_recording(storage.device()),
        "kv_cache: what is stored has a length that changes, which no recorded graph can read");
  if (!pages_) return views::slice(storage, 2, 0, length());
  const Tensor all = zeros({view_.lengths.size(0), storage.size(1), length(), storage.size(3)},
                           {storage.dtype(), storage.device()});
  for (size_t b = 0; b < lengths_.size(); ++b) {
    for (int64_t t = 0; t < lengths_[b];) {
      const Tensor from = piece(storage, b, t, lengths_[b] - t);
      kernels::copy(
          views::slice(views::select(all, 0, static_cast<int64_t>(b)), 1, t, t + from.size(1)),
          from);
      t += from.size(1);
    }
  }
  return all;
}

Tensor KvCache::key() const {
  return gathered(view_.key);
}
Tensor KvCache::value() const {
  return gathered(view_.value);
}

int64_t KvCache::length() const {
  return lengths_.empty() ? 0 : *std::max_element(lengths_.begin(), lengths_.end());
}

std::vector<int64_t> KvCache::seen_of_each() const {
  std::vector<int64_t> seen = lengths_;
  for (size_t b = 0; b < seen.size(); ++b) seen[b] += forgotten_[b];
  return seen;
}

int64_t KvCache::seen() const {
  const std::vector<int64_t> each = seen_of_each();
  return each.empty() ? 0 : *std::max_element(each.begin(), each.end());
}

Tensor KvCache::ends() const {
  check(view_.lengths.defined(), "kv_cache: nothing is stored yet");
  if (!bounded_) return view_.lengths;
  return kernels::to_device(from_sizes(seen_of_each(), view_.lengths.shape()),
                            view_.lengths.device());
}

bool KvCache::is_even() const {
  return std::all_of(lengths_.begin(), lengths_.end(), [&](int64_t n) { return n == lengths_[0]; });
}

void KvCache::upload_lengths() {
  kernels::copy(view_.lengths, from_sizes(lengths_, view_.lengths.shape()));
}

void KvCache::truncate(int64_t length) {
  check(length >= 0 && length <= this->length(), "kv_cache: cannot keep {} of {} tokens", length,
        this->length());
  std::vector<int64_t> kept = lengths_;
  for (int64_t& n : kept) n = std::min(n, length);
  truncate(kept);
}

void KvCache::truncate(std::span<const int64_t> lengths) {
  check(lengths.size() == lengths_.size(), "kv_cache: {} lengths for {} sequences", lengths.size(),
        lengths_.size());
  for (size_t b = 0; b < lengths_.size(); ++b) {
    check(lengths[b] >= 0 && lengths[b] <= lengths_[b], "kv_cache: cannot keep {} of {} tokens",
          lengths[b], lengths_[b]);
  }
  if (lengths_.empty()) return;
  for (size_t b = 0; b < lengths_.size(); ++b) {
    check(lengths[b] == 0 || lengths[b] == lengths_[b] || forgotten_[b] == 0,
          "kv_cache: sequence {} has forgotten its beginning and cannot go back to {} tokens", b,
          lengths[b]);
    if (lengths[b] == 0) forgotten_[b] = 0;
  }
  lengths_.assign(lengths.begin(), lengths.end());
  for (size_t b = 0; pages_ && b < lengths_.size(); ++b) {
    pages_->shrink(b, static_cast<size_t>(pages_for(lengths_[b], pages_->pool->page_size_)));
  }
  upload_lengths();
}

void KvCache::keep_newest(std::span<const int64_t> keep) {
  std::vector<int64_t> kept = lengths_;
  for (size_t b = 0; b < kept.size(); ++b) kept[b] = std::min(kept[b], keep[b]);
  if (kept == lengths_) return;
  const Tensor key = newest(gathered(view_.key), lengths_, kept);
  const Tensor value = options_.shared ? key : newest(gathered(view_.value), lengths_, kept);
  std::vector<int64_t> forgotten = forgotten_;
  for (size_t b = 0; b < kept.size(); ++b) forgotten[b] += lengths_[b] - kept[b];
  truncate(0);
  grow(kept);
  store(view_.key, key, kept);
  if (!options_.shared) store(view_.value, value, kept);
  lengths_ = kept;
  forgotten_ = forgotten;
  upload_lengths();
}

void KvCache::append_newest(const Tensor& key, const Tensor& value, std::span<const int64_t> keep,
                            std::span<const int64_t> counts) {
  check_fits(key, value);
  const auto batch = static_cast<size_t>(key.size(0));
  check(keep.size() == batch && (counts.empty() || counts.size() == batch),
        "kv_cache: {} sequences, but {} numbers to keep and {} counts", batch, keep.size(),
        counts.size());
  std::vector<int64_t> added(counts.begin(), counts.end());
  if (counts.empty()) added.assign(batch, key.size(2));
  std::vector<int64_t> old(batch), news(batch);
  for (size_t b = 0; b < batch; ++b) {
    old[b] = std::max<int64_t>(0, keep[b] - added[b]);
    news[b] = std::min(keep[b], added[b]);
  }
  if (view_.key.defined()) keep_newest(old);
  append(newest(key, added, news), newest(value, added, news), news);
  for (size_t b = 0; b < batch; ++b) forgotten_[b] += added[b] - news[b];
  bounded_ = true;
}

void KvCache::reserve(int64_t tokens) {
  check(view_.key.defined(), "kv_cache: reserve() wants a cache that something was appended to");
  grow(std::vector<int64_t>(lengths_.size(), tokens));
}

void KvCache::replayed(int64_t tokens) {
  grow(std::vector<int64_t>(lengths_.size(), tokens));
  for (int64_t& length : lengths_) length += tokens;
}

int64_t KvCache::bytes_per_token() const {
  const int64_t width = view_.key.size(3) + (options_.shared ? 0 : view_.value.size(3));
  return view_.key.size(1) * width * size_of(view_.key.dtype());
}

int64_t KvCache::bytes() const {
  int64_t total = 0;
  for (const auto& [name, tensor] : states_) total += tensor.numel() * size_of(tensor.dtype());
  if (!view_.key.defined()) return total;
  return total + std::accumulate(lengths_.begin(), lengths_.end(), int64_t{0}) * bytes_per_token();
}

int64_t KvCache::reserved_bytes() const {
  if (!view_.key.defined()) return 0;
  int64_t tokens = static_cast<int64_t>(lengths_.size()) * capacity_;
  if (pages_) {
    tokens = 0;
    for (const auto& own : pages_->of) {
      tokens += static_cast<int64_t>(own.size()) * pages_->pool->page_size_;
    }
  }
  return tokens * bytes_per_token();
}

}  // namespace tessera
