// The keys and values of the past, per layer, for generation.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tessera/core/tensor.h"

namespace tessera {

// Room for keys and values in pages of a fixed number of tokens, from which the caches of all
// layers and sequences take what they need and to which they give it back.
class PagePool {
 public:
  PagePool(int64_t pages, int64_t page_size);
  int64_t page_size() const { return page_size_; }
  int64_t pages() const { return pages_; }
  int64_t free_pages() const { return static_cast<int64_t>(free_.size()); }

 private:
  friend class KvCache;
  int64_t pages_, page_size_;
  std::vector<int32_t> free_;  // the next one last
  Tensor key_, value_;         // (pages, Hk, page_size, D), from the first append on
};

struct CacheOptions {
  std::optional<DType> dtype = {};      // of what is stored; default: as the first keys
  bool shared = false;                  // keys and values are one tensor, stored once
  std::shared_ptr<PagePool> pool = {};  // null: one contiguous piece per sequence
};

// What an engine reads.
struct CacheView {
  Tensor key, value;  // (B, Hk, capacity, D) or, in pages, (pages, Hk, page_size, D)
  Tensor lengths;     // i32 (B)
  Tensor added;       // i32 (B): how many tokens the last append gave each; undefined: equally many
  Tensor table;       // i32 (B, pages of a sequence); undefined when contiguous
};

// Cache of one layer. Sequences may have different lengths; keys are stored after rotation. What
// is stored lies in (B, Hk, capacity, D), or in pages. On CUDA an append reads and advances lengths
// on the device alone, so a step can be recorded into a graph and replayed.
class KvCache {
 public:
  explicit KvCache(int64_t capacity, CacheOptions options = {});
  KvCache(KvCache&&) noexcept = default;
  KvCache& operator=(KvCache&&) noexcept = default;
  ~KvCache();

  // Appends (B, Hk, N, D) keys and values, of sequence b only the first counts[b] tokens when
  // counts are given; throws when the capacity is exceeded or the pool is empty. No gradient.
  void append(const Tensor& key, const Tensor& value, std::span<const int64_t> counts = {});
  // What is stored, (B, Hk, length, D), zeros beyond the end of a shorter sequence: views, or
  // copies when it lies in pages. Not while a graph is recorded: the length would be frozen in it.
  Tensor key() const;
  Tensor value() const;
  int64_t length() const;  // of the longest sequence
  // How many tokens the longest sequence has had, forgotten ones included, and where the next token
  // of each sequence stands: i32 (B), on their device.
  int64_t seen() const;
  std::vector<int64_t> seen_of_each() const;
  Tensor ends() const;
  const std::vector<int64_t>& lengths() const { return lengths_; }  // empty before the first append
  bool is_even() const;  // all sequences have the same length
  int64_t capacity() const { return capacity_; }
  // Forgets everything after `length` tokens of each sequence, or after its own number; pages go
  // back to the pool.
  void truncate(int64_t length);
  void truncate(std::span<const int64_t> lengths);
  // For mechanisms that look back over a bounded number of tokens: appends as above, then keeps
  // only the newest keep[b] tokens of sequence b, at the front. What is forgotten still counts as
  // seen.
  void append_newest(const Tensor& key, const Tensor& value, std::span<const int64_t> keep,
                     std::span<const int64_t> counts = {});
  // Takes the pages for `tokens` more tokens of every sequence now, so that appends upload nothing.
  void reserve(int64_t tokens);
  // The host's side of appends of `tokens` tokens to every sequence that a replayed graph has made.
  void replayed(int64_t tokens);
  int64_t bytes() const;           // of what is stored, states included
  int64_t reserved_bytes() const;  // of the memory that is held for it
  const CacheView& view() const { return view_; }
  // What else a mechanism keeps between steps (a running average, the members of clusters), by
  // name; undefined at first. It is not truncated with the rest.
  Tensor& state(const std::string& name) { return states_[name]; }
  // Whether a step does more than to append: there are states, or tokens are forgotten.
  bool has_states() const { return bounded_ || !states_.empty(); }

 private:
  // Pages of each sequence; they go back to the pool with the cache.
  struct Pages {
    std::shared_ptr<PagePool> pool;
    std::vector<std::vector<int32_t>> of;
    ~Pages();
    void shrink(size_t sequence, size_t count);
  };

  void start(const Tensor& key, const Tensor& value);
  void check_fits(const Tensor& key, const Tensor& value) const;
  void grow(std::span<const int64_t> added);
  void store(const Tensor& storage, const Tensor& x, std::span<const int64_t> counts) const;
  Tensor gathered(const Tensor& storage) const;
  void keep_newest(std::span<const int64_t> keep);
  // The piece of `storage` with tokens from `position` on of a sequence, at most `count`.
  Tensor piece(const Tensor& storage, size_t sequence, int64_t position, int64_t count) const;
  void upload_lengths();
  int64_t bytes_per_token() const;

  int64_t capacity_;
  CacheOptions options_;
  std::vector<int64_t> lengths_;
  std::vector<int64_t> forgotten_;
  bool bounded_ = false;  // append_newest was used
  std::unique_ptr<Pages> pages_;
  CacheView view_;
  std::map<std::string, Tensor> states_;
};

}  // namespace tessera
