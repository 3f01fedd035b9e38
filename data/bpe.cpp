#include "tessera/data/bpe.h"

#include <algorithm>
#include <functional>
#include <queue>

#include "tessera/core/error.h"
#include "tessera/data/utf8.h"

namespace tessera {
namespace {

TESSERA_REGISTER(Tokenizer, BpeTokenizer, "bpe", "Byte-pair encoding with a given vocabulary",
                 "Sennrich et al. 2016; Radford et al. 2019");

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// The character that stands for a byte.
constexpr char32_t byte_symbol(int byte) {
  const auto printable = [](int b) {
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
  };
  if (printable(byte)) return static_cast<char32_t>(byte);
  char32_t next = 0x100;
  for (int b = 0; b < byte; ++b) next += printable(b) ? 0 : 1;
  return next;
}

std::string byte_token(int byte) {
  constexpr char kDigits[] = "0123456789ABCDEF";
  return std::string("<0x") + kDigits[byte / 16] + kDigits[byte % 16] + ">";
}

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // ▁, a space in SentencePiece models

bool has_mark_behind(std::string_view token) {
  while (token.starts_with(kSpaceMark)) token.remove_prefix(kSpaceMark.size());
  return token.find(kSpaceMark) != std::string_view::npos;
}

}  // namespace

std::string to_byte_symbols(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) append_symbol(text, byte_symbol(static_cast<unsigned char>(c)));
  return text;
}

std::optional<std::string> from_byte_symbols(std::string_view text) {
  static const std::vector<int> bytes = [] {
    std::vector<int> table(0x200, -1);
    for (int b = 0; b < 256; ++b) table[byte_symbol(b)] = b;
    return table;
  }();
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const Utf8Symbol s = next_symbol(text, at);
    if (s.value >= bytes.size() || bytes[s.value] < 0) return std::nullopt;
    out += static_cast<char>(bytes[s.value]);
    at += static_cast<size_t>(s.length);
  }
  return out;
}

BpeTokenizer::BpeTokenizer(const Config& config, const DataContext& context) {
  check(config.path.empty() != config.model.is_null(),
        "bpe tokenizer: give a path, or a model, not both");
  model_ = config.path.empty() ? from_json_model(config.model, "bpe tokenizer")
                               : read_bpe(find_data(config.path, context, "tokenizer.path"));
  index();
}

BpeTokenizer::BpeTokenizer(BpeModel model) : model_(std::move(model)) {
  index();
}

void BpeTokenizer::index() {
  const auto count = static_cast<int32_t>(model_.tokens.size());
  ids_.reserve(model_.tokens.size());
  for (int32_t id = 0; id < count; ++id) {
    const std::string& token = model_.tokens[static_cast<size_t>(id)];
    if (!model_.specials.contains(token)) ids_.emplace(token, id);
  }
  for (int b = 0; b < 256; ++b) {
    const std::string key =
        model_.characters ? byte_token(b) : std::string(1, static_cast<char>(b));
    const auto found = ids_.find(key);
    bytes_[b] = found == ids_.end() ? -1 : found->second;
    if (bytes_[b] >= 0) byte_of_[bytes_[b]] = static_cast<char>(b);
  }
  if (model_.scores.empty()) {
    add_merges();
  } else {
    add_scored_merges();
  }
  marks_begin_ = model_.characters &&
                 std::none_of(model_.tokens.begin(), model_.tokens.end(), has_mark_behind);
}

void BpeTokenizer::add_merges() {
  merges_.reserve(model_.merges.size());
  for (size_t rank = 0; rank < model_.merges.size(); ++rank) {
    const auto [left, right] = model_.merges[rank];
    const std::string whole =
        model_.tokens[static_cast<size_t>(left)] + model_.tokens[static_cast<size_t>(right)];
    const auto found = ids_.find(whole);
    check(found != ids_.end(), "bpe tokenizer: merge {} makes \"{}\", which is no token", rank,
          to_byte_symbols(whole));
    merges_.emplace(pair_key(left, right), Merge{static_cast<int32_t>(rank), found->second});
  }
}

// Any two tokens that together are a third; equal scores have equal rank.
void BpeTokenizer::add_scored_merges() {
  std::vector<float> order = model_.scores;
  std::sort(order.begin(), order.end(), std::greater<>());
  for (const auto& [token, id] : ids_) {
    const auto rank = std::lower_bound(order.begin(), order.end(),
                                       model_.scores[static_cast<size_t>(id)], std::greater<>()) -
                      order.begin();
    for (size_t at = 1; at < token.size(); ++at) {
      const auto left = ids_.find(token.substr(0, at)), right = ids_.find(token.substr(at));
      if (left == ids_.end() || right == ids_.end()) continue;
      merges_.emplace(pair_key(left->second, right->second), Merge{static_cast<int32_t>(rank), id});
    }
  }
}

const BpeTokenizer::Merge* BpeTokenizer::merge_of(int32_t left, int32_t right) const {
  const auto found = merges_.find(pair_key(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

void BpeTokenizer::begin_symbols(std::string_view piece, std::vector<int32_t>& ids) const {
  const auto add_byte = [&](char c) {
    const auto byte = static_cast<unsigned char>(c);
    check(bytes_[byte] >= 0, "bpe tokenizer: the vocabulary has no token for byte 0x{:02X}", byte);
    ids.push_back(bytes_[byte]);
  };
  for (size_t at = 0; at < piece.size();) {
    const size_t length =
        model_.characters ? static_cast<size_t>(next_symbol(piece, at).length) : 1;
    const std::string_view symbol = piece.substr(at, length);
    const auto known = model_.characters ? ids_.find(symbol) : ids_.end();
    if (known != ids_.end()) {
      ids.push_back(known->second);
    } else {
      for (const char c : symbol) add_byte(c);
    }
    at += length;
  }
}

// Merges the neighbours of lowest rank, leftmost first, until none is left: a queue of candidates
// over a linked list of symbols.
void BpeTokenizer::merge(std::vector<int32_t>& ids) const {
  struct Candidate {
    int32_t rank, at, left, right, result;
    bool operator<(const Candidate& b) const { return rank != b.rank ? rank > b.rank : at > b.at; }
  };
  const auto count = static_cast<int32_t>(ids.size());
  std::vector<int32_t> next(ids.size()), previous(ids.size());
  std::priority_queue<Candidate> queue;
  const auto offer = [&](int32_t at) {
    if (at < 0 || next[static_cast<size_t>(at)] >= count) return;
    const int32_t left = ids[static_cast<size_t>(at)];
    const int32_t right = ids[static_cast<size_t>(next[static_cast<size_t>(at)])];
    if (const Merge* m = merge_of(left, right)) queue.push({m->rank, at, left, right, m->result});
  };
  for (int32_t i = 0; i < count; ++i) {
    next[static_cast<size_t>(i)] = i + 1;
    previous[static_cast<size_t>(i)] = i - 1;
  }
  for (int32_t i = 0; i + 1 < count; ++i) offer(i);
  while (!queue.empty()) {
    const Candidate c = queue.top();
    queue.pop();
    const auto at = static_cast<size_t>(c.at);
    const int32_t follower = next[at];
    if (ids[at] != c.left || follower >= count || ids[static_cast<size_t>(follower)] != c.right) {
      continue;
    }
    ids[at] = c.result;
    ids[static_cast<size_t>(follower)] = -1;
    next[at] = next[static_cast<size_t>(follower)];
    if (next[at] < count) previous[static_cast<size_t>(next[at])] = c.at;
    offer(previous[at]);
    offer(c.at);
  }
  std::erase(ids, -1);
}

void BpeTokenizer::encode_piece(std::string_view piece, std::vector<int32_t>& ids) const {
  if (model_.whole_first) {
    if (const auto found = ids_.find(piece); found != ids_.end()) {
      ids.push_back(found->second);
      return;
    }
  }
  begin_symbols(piece, ids);
  if (ids.size() > 1) merge(ids);
}

// fn(part) for parts that no merge crosses.
template <class Fn>
void BpeTokenizer::for_each_part(std::string_view text, const Fn& fn) const {
  if (!marks_begin_) return for_each_piece(text, model_.pieces, fn);
  for (size_t at = 0; at < text.size();) {
    size_t end = at;
    while (text.substr(end).starts_with(kSpaceMark)) end += kSpaceMark.size();
    end = std::min(text.find(kSpaceMark, end), text.size());
    fn(text.substr(at, end - at));
    at = end;
  }
}

size_t BpeTokenizer::last_cut(std::string_view text) const {
  const bool spaces = model_.characters && marks_begin_;
  const bool pieces = !model_.characters && model_.pieces != PieceRule::whole;
  for (size_t at = text.size(); at-- > 1;) {
    if (spaces && text[at] == ' ' && text[at - 1] != ' ') return at;
    if (pieces && always_cut(text, at)) return at;
  }
  return 0;
}

std::vector<int64_t> BpeTokenizer::encode(std::string_view text) const {
  return encode(text, model_.space_prefix);
}

std::vector<int64_t> BpeTokenizer::encode_more(std::string_view text) const {
  return encode(text, false);
}

std::vector<int64_t> BpeTokenizer::encode(std::string_view text, bool prefix) const {
  std::string marked;
  if (model_.characters) {  // spaces are written as marks
    if (prefix && !text.empty()) marked += kSpaceMark;
    for (const char c : text) {
      if (c == ' ') {
        marked += kSpaceMark;
      } else {
        marked += c;
      }
    }
    text = marked;
  }
  std::vector<int64_t> out;
  std::unordered_map<std::string_view, std::pair<size_t, size_t>> known;  // places in `out`
  std::vector<int32_t> ids;
  for_each_part(text, [&](std::string_view piece) {
    const auto [entry, fresh] = known.try_emplace(piece, out.size(), 0);
    if (!fresh) {
      const auto [begin, count] = entry->second;
      for (size_t i = 0; i < count; ++i) out.push_back(out[begin + i]);
      return;
    }
    ids.clear();
    encode_piece(piece, ids);
    entry->second.second = ids.size();
    out.insert(out.end(), ids.begin(), ids.end());
  });
  return out;
}

std::string BpeTokenizer::decode(std::span<const int64_t> ids) const {
  std::string text;
  for (const int64_t id : ids) {
    check(id >= 0 && id < vocabulary(), "tokenizer: id {} is outside the vocabulary of {}", id,
          vocabulary());
    const std::string& token = model_.tokens[static_cast<size_t>(id)];
    if (!model_.characters) {
      text += token;
      continue;
    }
    if (const auto byte = byte_of_.find(static_cast<int32_t>(id)); byte != byte_of_.end()) {
      text += byte->second;
      continue;
    }
    size_t at = 0;
    for (size_t mark = token.find(kSpaceMark); mark != std::string::npos;
         mark = token.find(kSpaceMark, at)) {
      text += token.substr(at, mark - at) + ' ';
      at = mark + kSpaceMark.size();
    }
    text += token.substr(at);
  }
  return text;
}

std::optional<int64_t> BpeTokenizer::begin_of_text() const {
  return model_.begin < 0 ? std::nullopt : std::optional<int64_t>(model_.begin);
}

std::optional<int64_t> BpeTokenizer::end_of_text() const {
  return model_.end < 0 ? std::nullopt : std::optional<int64_t>(model_.end);
}

Json BpeTokenizer::state() const {
  return Json{{"type", "bpe"}, {"model", to_json_model(model_)}};
}

}  // namespace tessera
