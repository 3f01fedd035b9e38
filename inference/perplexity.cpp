#include "tessera/inference/perplexity.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "tessera/autograd/ops/cross_entropy.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/data/token_reader.h"

namespace tessera {
namespace {

constexpr int64_t kLogits = int64_t{1} << 24;  // at a time

// The tokens of a text from the beginning of the next window on, read as windows need them.
class Windows {
 public:
  Windows(TokenSource& text, std::vector<int64_t> begin) : text_(text), tokens_(std::move(begin)) {}

  // How many tokens there are from the beginning on, at most `wanted`.
  int64_t available(int64_t wanted) {
    while (left() < wanted && !ended_) ended_ = !text_.read(tokens_);
    return std::min(left(), wanted);
  }
  std::span<const int64_t> first(int64_t count, int64_t from = 0) const {
    return std::span(tokens_).subspan(static_cast<size_t>(at_ + from), static_cast<size_t>(count));
  }
  void advance(int64_t count) {
    at_ += count;
    if (at_ < left()) return;
    tokens_.erase(tokens_.begin(), tokens_.begin() + static_cast<ptrdiff_t>(at_));
    at_ = 0;
  }

 private:
  int64_t left() const { return static_cast<int64_t>(tokens_.size()) - at_; }

  TokenSource& text_;
  std::vector<int64_t> tokens_;
  int64_t at_ = 0;
  bool ended_ = false;
};

Tensor on(Device device, const std::vector<int64_t>& values, const Shape& shape) {
  return kernels::to_device(from_values(values, shape), device);
}

// Σ −log p of the last `scored` tokens of each window: tokens (B · (N + 1)).
double nats_of(LanguageModel& model, const std::vector<int64_t>& tokens, int64_t batch,
               int64_t scored) {
  const auto width = static_cast<int64_t>(tokens.size()) / batch;
  const Tensor all = on(model.device(), tokens, {batch, width});
  const Tensor hidden = model.hidden(slice(all, 1, 0, width - 1), {});
  const Tensor rows =
      reshape(slice(hidden, 1, width - 1 - scored, width - 1), {batch * scored, hidden.size(2)});
  const Tensor targets = reshape(slice(all, 1, width - scored, width), {batch * scored});
  const int64_t step = std::max<int64_t>(1, kLogits / model.head().size(0));
  double total = 0;
  for (int64_t r = 0; r < batch * scored; r += step) {
    const int64_t end = std::min(r + step, batch * scored);
    const Tensor logits = linear(slice(rows, 0, r, end), model.head(), {}).to(DType::f32);
    total += cross_entropy(logits, slice(targets, 0, r, end), {.reduction = Reduction::sum}).item();
  }
  return total;
}

}  // namespace

double Perplexity::per_token() const {
  return std::exp(nats / static_cast<double>(tokens));
}
double Perplexity::per_byte() const {
  return std::exp(nats / static_cast<double>(bytes));
}
double Perplexity::bits_per_byte() const {
  return nats / static_cast<double>(bytes) * std::numbers::log2e;
}

Perplexity perplexity(LanguageModel& model, const Tokenizer& tokenizer, TokenSource& text,
                      const PerplexityOptions& options,
                      const std::function<void(const Perplexity& so_far)>& progress) {
  const NoGrad off;
  const int64_t context = options.context > 0 ? options.context : model.context_length();
  const int64_t stride = options.stride > 0 ? options.stride : (context + 1) / 2;
  check(context <= model.context_length(),
        "perplexity: a context of {} tokens, the model sees at most {}", context,
        model.context_length());
  check(stride <= context,
        "perplexity: a stride of {} tokens would leave some out of windows of {}", stride, context);
  std::vector<int64_t> begin;
  if (const auto id = tokenizer.begin_of_text()) begin.push_back(*id);
  Windows windows(text, begin);
  Perplexity result;
  // A window's tokens are its inputs and the last target; the first one scores all its targets.
  int64_t scored = windows.available(context + 1) - 1;
  check(scored > 0, "perplexity: the text has {} tokens; it takes two to predict one", scored + 1);
  const auto first = windows.first(1);
  const int64_t unpredicted =
      begin.empty() ? static_cast<int64_t>(tokenizer.decode(first).size()) : 0;
  const auto add = [&](const std::vector<int64_t>& tokens, int64_t batch) {
    result.nats += nats_of(model, tokens, batch, scored);
    result.tokens += batch * scored;
    result.bytes = text.bytes() - unpredicted;
    if (progress) progress(result);
  };
  const auto copy = [&](std::vector<int64_t>& to, int64_t from, int64_t count) {
    const auto tokens = windows.first(count, from);
    to.insert(to.end(), tokens.begin(), tokens.end());
  };
  std::vector<int64_t> tokens;
  copy(tokens, 0, scored + 1);
  add(tokens, 1);
  while (true) {
    const int64_t wanted = context + 1 + options.batch * stride;
    const int64_t found = windows.available(wanted);
    const int64_t whole = std::max<int64_t>(0, (found - context - 1) / stride);
    tokens.clear();
    for (int64_t w = 1; w <= whole; ++w) copy(tokens, w * stride, context + 1);
    scored = stride;
    if (whole > 0) add(tokens, whole);
    windows.advance(whole * stride);
    if (found == wanted) continue;
    const int64_t rest = windows.available(context + 1 + stride) - context - 1;
    if (rest <= 0) return result;
    tokens.clear();
    copy(tokens, stride, context + 1 + rest - stride);
    scored = rest;
    add(tokens, 1);
    return result;
  }
}

}  // namespace tessera
