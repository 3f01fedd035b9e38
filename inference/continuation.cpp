#include "tessera/inference/continuation.h"

#include <algorithm>

#include "tessera/autograd/ops/embedding.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/cuda/capture.h"
#include "tessera/core/kernels/copy.h"

namespace tessera {
namespace {

constexpr int64_t kEagerSteps = 2;  // before recording: memory, plans and kernels are in place then

using Sequences = std::vector<std::vector<int64_t>>;

std::vector<uint64_t> seeds_from(uint64_t first, size_t count) {
  std::vector<uint64_t> seeds;
  for (size_t b = 0; b < count; ++b) seeds.push_back(first + b);
  return seeds;
}

size_t longest_of(const Sequences& sequences) {
  size_t longest = 0;
  for (const auto& s : sequences) longest = std::max(longest, s.size());
  return longest;
}

void keep_end(std::vector<int64_t>& tokens, size_t count) {
  if (tokens.size() > count)
    tokens.erase(tokens.begin(), tokens.end() - static_cast<ptrdiff_t>(count));
}

// Ids (B, N) padded at their ends, and the lengths of uneven ones.
Tensor padded(const Sequences& sequences, std::vector<int32_t>& lengths) {
  const size_t width = longest_of(sequences);
  std::vector<int64_t> ids(sequences.size() * width);
  for (size_t b = 0; b < sequences.size(); ++b) {
    std::copy(sequences[b].begin(), sequences[b].end(),
              ids.begin() + static_cast<ptrdiff_t>(b * width));
    lengths.push_back(static_cast<int32_t>(sequences[b].size()));
  }
  return from_values(ids, {static_cast<int64_t>(sequences.size()), static_cast<int64_t>(width)});
}

// The newest of the hidden states (B, N, width) of each row: (B, width).
Tensor newest(const Tensor& hidden, const std::vector<int32_t>& lengths) {
  std::vector<int64_t> rows;
  for (size_t b = 0; b < lengths.size(); ++b) {
    rows.push_back(static_cast<int64_t>(b) * hidden.size(1) + lengths[b] - 1);
  }
  const auto count = static_cast<int64_t>(rows.size());
  const Tensor index = kernels::to_device(from_values(rows, {count}), hidden.device());
  return embedding(flatten(hidden, 0, 1), index);
}

}  // namespace

Continuation::Continuation(LanguageModel& model, Sequences prompts, const GenerateOptions& options)
    : model_(model),
      options_(options),
      device_(model.device()),
      tokens_(std::move(prompts)),
      over_(tokens_.size()),
      longest_(std::min<int64_t>(model.context_length(),
                                 static_cast<int64_t>(longest_of(tokens_)) + options.tokens)),
      sampler_(options.sampling, seeds_from(options.seed, tokens_.size()), tokens_,
               model.head().size(0), device_),
      downloads_(device_),
      recordable_(options.graph && device_.is_cuda() && model.all_capturable()) {
  for (auto& tokens : tokens_) keep_end(tokens, static_cast<size_t>(model.context_length()));
  if (options.use_cache) make_caches();
}

Continuation::~Continuation() = default;

void Continuation::make_caches() {
  CacheOptions cache;
  if (options_.page_size > 0) {
    const int64_t pages = (longest_ + options_.page_size - 1) / options_.page_size;
    const auto count = static_cast<int64_t>(model_.make_caches().size() * tokens_.size());
    if (count > 0) cache.pool = std::make_shared<PagePool>(pages * count, options_.page_size);
  }
  caches_ = model_.make_caches(cache);
}

bool Continuation::has_states() const {
  return std::any_of(caches_.begin(), caches_.end(),
                     [](const KvCache& cache) { return cache.has_states(); });
}

bool Continuation::is_full() const {
  return static_cast<int64_t>(longest_of(tokens_)) + asked_ > model_.context_length();
}

bool Continuation::can_look_ahead() const {
  return device_.is_cuda() && is_cached() && !is_full();
}

std::vector<int64_t> Continuation::next(bool more) {
  const NoGrad off;
  if (asked_ == 0) ask();
  if (more && asked_ == 1 && can_look_ahead()) ask();
  const std::vector<int64_t> ids = downloads_.take().to_vector<int64_t>();
  --asked_;
  for (size_t b = 0; b < ids.size(); ++b) {
    check(ids[b] >= 0 || over_[b], "sample: none of the logits of sequence {} is finite", b);
    tokens_[b].push_back(ids[b]);
  }
  return ids;
}

void Continuation::finish(size_t b) {
  over_[b] = true;
  if (tokens_.size() > 1) retire(b);
}

// Begins sequence b again with a token that nobody looks at.
void Continuation::retire(size_t b) {
  tokens_[b].assign(1, 0);
  for (KvCache& cache : caches_) {
    std::vector<int64_t> lengths = cache.lengths();
    if (lengths.empty()) continue;
    lengths[b] = 0;
    cache.truncate(lengths);
  }
}

void Continuation::ask() {
  const auto context = static_cast<size_t>(model_.context_length());
  for (size_t b = 0; is_full() && b < tokens_.size(); ++b) {
    if (over_[b] && tokens_[b].size() > context) retire(b);
  }
  if (is_full()) {
    for (auto& tokens : tokens_) {
      if (tokens.size() > context) keep_end(tokens, (context + 1) / 2);
    }
    fresh_ = true;
  }
  if (fresh_ || !is_cached()) {
    prefill();
  } else {
    step();
  }
  downloads_.ask(sampler_.drawn());
  ++asked_;
}

void Continuation::prefill() {
  ForwardContext context;
  if (is_cached()) {
    if (has_states()) make_caches();
    for (KvCache& cache : caches_) cache.truncate(0);
    context.caches = &caches_;
  }
  std::vector<int32_t> lengths;
  const Tensor ids = kernels::to_device(padded(tokens_, lengths), device_);
  if (std::any_of(lengths.begin(), lengths.end(), [&](int32_t n) { return n != ids.size(1); })) {
    context.lengths = kernels::to_device(from_values(lengths, {ids.size(0)}), device_);
  }
  sampler_.draw(linear(newest(model_.hidden(ids, context), lengths), model_.head(), {}));
  fresh_ = false;
  // A graph would go on from the states that it was recorded with.
  recordable_ = recordable_ && !has_states();
}

void Continuation::step() {
  if (++steps_ > kEagerSteps && recordable_) {
    for (KvCache& cache : caches_) cache.reserve(1);
    const bool recorded = graph_ != nullptr;
    if (!recorded) record();  // the host's side of the caches advances with it
    if (graph_ != nullptr) {
      graph_->replay();
      for (KvCache& cache : caches_) cache.replayed(recorded ? 1 : 0);
      return;
    }
  }
  work();
}

// One token of every sequence: everything that a graph holds.
void Continuation::work() {
  ForwardContext context;
  context.caches = &caches_;
  const Tensor hidden = model_.hidden(unsqueeze(sampler_.ids(), 1), context);
  sampler_.draw(linear(select(hidden, 1, 0), model_.head(), {}));
}

// Where recording fails, steps run one operation at a time.
void Continuation::record() {
  const std::vector<int64_t> lengths = caches_.front().lengths();
  try {
    graph_ = std::make_unique<CapturedGraph>(device_, [this] { work(); });
  } catch (const Error&) {
    recordable_ = false;
    for (KvCache& cache : caches_) cache.truncate(lengths);
  }
}

}  // namespace tessera
