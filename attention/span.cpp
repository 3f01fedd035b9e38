#include "tessera/attention/span.h"

#include <algorithm>
#include <charconv>

#include "tessera/attention/engines/block_sparse.h"
#include "tessera/attention/engines/dense.h"
#include "tessera/attention/patterns.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/elementwise.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"

namespace tessera {
namespace {

constexpr std::pair<std::string_view, Span::Kind> kKinds[] = {
    {"full", Span::Kind::full},
    {"block", Span::Kind::block},
    {"window", Span::Kind::window},
    {"block_prev", Span::Kind::block_prev}};
constexpr int64_t kLargestSpan = 1 << 28;

int64_t triangle(int64_t n) {
  return n * (n + 1) / 2;
}

// Tokens [0, blocks · size) of (B, H, N, D) as (B · blocks, H, size, D), and back.
Tensor fold(const Tensor& x, int64_t blocks, int64_t size) {
  const Tensor cut =
      reshape(slice(x, 2, 0, blocks * size), {x.size(0), x.size(1), blocks, size, x.size(3)});
  return reshape(permute(cut, {0, 2, 1, 3, 4}), {x.size(0) * blocks, x.size(1), size, x.size(3)});
}

Tensor unfold(const Tensor& x, int64_t blocks) {
  const Tensor cut = reshape(x, {x.size(0) / blocks, blocks, x.size(1), x.size(2), x.size(3)});
  return reshape(permute(cut, {0, 2, 1, 3, 4}),
                 {cut.size(0), x.size(1), blocks * x.size(2), x.size(3)});
}

// How much of `blocks` blocks of `size` tokens from token `first` on is there: i32 (B · blocks).
Tensor lengths_inside(const Tensor& lengths, int64_t first, int64_t blocks, int64_t size) {
  if (!lengths.defined()) return {};
  const auto step = static_cast<double>(size);
  const Tensor starts =
      affine(arange(0, static_cast<double>(blocks), 1, {DType::i32, lengths.device()}), step,
             static_cast<double>(first));
  return flatten(clamp(unsqueeze(lengths, 1) - starts, 0, step));
}

// As dense attention of each block alone, a last one that is cut short included.
AttentionResult block_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                int64_t block, const AttentionOptions& options) {
  const int64_t tokens = query.size(2), blocks = tokens / block, whole = blocks * block;
  if (tokens <= block) return dense_attention(query, key, value, options);
  AttentionOptions o = options;
  o.key_lengths = lengths_inside(options.key_lengths, 0, blocks, block);
  const AttentionResult r = dense_attention(fold(query, blocks, block), fold(key, blocks, block),
                                            fold(value, blocks, block), o);
  const AttentionResult all = {unfold(r.output, blocks),
                               squeeze(unfold(unsqueeze(r.logsumexp, -1), blocks), -1)};
  if (whole == tokens) return all;
  o.key_lengths = lengths_inside(options.key_lengths, whole, 1, tokens - whole);
  const AttentionResult rest =
      dense_attention(slice(query, 2, whole), slice(key, 2, whole), slice(value, 2, whole), o);
  return {concat({all.output, rest.output}, 2), concat({all.logsumexp, rest.logsumexp}, 2)};
}

// Blocks and their neighbours, by lists of blocks.
AttentionResult neighbour_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                    int64_t block, const AttentionOptions& options) {
  const int64_t tokens = query.size(2);
  if (tokens <= 2 * block) return dense_attention(query, key, value, options);
  const BlockGrid grid{.queries = tokens,
                       .keys = tokens,
                       .block_q = block,
                       .block_k = block,
                       .right = options.causal ? 0 : -1,
                       .device = query.device()};
  const auto blocks = static_cast<double>(grid.query_blocks());
  const Tensor own = arange(0, blocks, 1, {DType::i64, query.device()});
  TensorList near = {own - 1, own};
  if (!options.causal) near.push_back(clamp(own + 1, 0, blocks - 1));
  const Tensor lists = reshape(stack(near, -1), {1, 1, grid.query_blocks(), -1});
  AttentionOptions o = options;
  o.causal = false;  // the mask's window says so
  return block_sparse_attention(query, key, value, listed_blocks(grid, lists), o);
}

}  // namespace

int64_t Span::first_key(int64_t token) const {
  switch (kind) {
    case Kind::block:
      return token / size * size;
    case Kind::window:
      return std::max<int64_t>(0, token - size);
    case Kind::block_prev:
      return std::max<int64_t>(0, (token / size - 1) * size);
    default:
      return 0;
  }
}

int64_t Span::entries(int64_t tokens) const {
  if (kind == Kind::full) return triangle(tokens);
  if (kind == Kind::window) {
    const int64_t short_rows = std::min(tokens, size);  // that see fewer than size + 1 keys
    return triangle(short_rows) + (tokens - short_rows) * (size + 1);
  }
  const int64_t blocks = tokens / size, rest = tokens % size;
  const int64_t own = blocks * triangle(size) + triangle(rest);
  return kind == Kind::block ? own : own + size * std::max<int64_t>(0, tokens - size);
}

int64_t Span::memory() const {
  switch (kind) {
    case Kind::block:
      return size;
    case Kind::window:
      return size + 1;
    case Kind::block_prev:
      return 2 * size;
    default:
      return -1;
  }
}

Span span_from_text(std::string_view user, const std::string& text) {
  const size_t colon = text.find(':');
  const std::string_view name = std::string_view(text).substr(0, colon);
  for (const auto& [known, kind] : kKinds) {
    if (name != known) continue;
    if (kind == Span::Kind::full && colon == std::string::npos) return {};
    if (kind == Span::Kind::full || colon == std::string::npos) break;
    Span span{.kind = kind};
    const char *begin = text.data() + colon + 1, *end = text.data() + text.size();
    const auto parsed = std::from_chars(begin, end, span.size);
    if (parsed.ec != std::errc() || parsed.ptr != end) break;
    const int64_t least = kind == Span::Kind::window ? 0 : 1;
    check(span.size >= least && span.size <= kLargestSpan,
          "{}: span \"{}\" has size {}; it must be between {} and {}", user, text, span.size, least,
          kLargestSpan);
    return span;
  }
  fail("{}: unknown span \"{}\"; use full, block:B, window:W or block_prev:B", user, text);
}

std::string to_string(const Span& span) {
  if (span.kind == Span::Kind::full) return "full";
  const auto* row = std::find_if(std::begin(kKinds), std::end(kKinds),
                                 [&](const auto& known) { return known.second == span.kind; });
  return std::string(row->first) + ":" + std::to_string(span.size);
}

AttentionResult span_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                               const Span& span, const AttentionOptions& options) {
  AttentionOptions o = options;
  switch (span.kind) {
    case Span::Kind::block:
      return block_attention(query, key, value, span.size, o);
    case Span::Kind::block_prev:
      return neighbour_attention(query, key, value, span.size, o);
    case Span::Kind::window:
      o.left = span.size;
      if (!o.causal) o.right = span.size;
      break;
    default:
      break;
  }
  return dense_attention(query, key, value, o);
}

AttentionResult span_attention_from(int64_t first, const Tensor& query, const Tensor& key,
                                    const Tensor& value, const Span& span,
                                    const AttentionOptions& options) {
  const int64_t queries = query.size(2), keys = key.size(2), last = first + keys;
  std::vector<int32_t> begin;
  for (int64_t token = last - queries; token < last; ++token) {
    begin.push_back(static_cast<int32_t>(std::max<int64_t>(0, span.first_key(token) - first)));
  }
  AttentionOptions o = options;
  o.causal = true;
  o.key_begin = kernels::to_device(from_values(begin, {1, 1, queries}), query.device());
  o.key_end = full({1, 1, queries}, static_cast<double>(keys), {DType::i32, query.device()});
  return dense_attention(query, key, value, o);
}

}  // namespace tessera
