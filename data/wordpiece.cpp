#include "tessera/data/wordpiece.h"

#include <utf8proc.h>

#include <algorithm>
#include <cctype>

#include "tessera/core/error.h"
#include "tessera/core/file.h"
#include "tessera/data/tokenizer_files.h"
#include "tessera/data/utf8.h"

namespace tessera {
namespace {
namespace fs = std::filesystem;

TESSERA_REGISTER(Tokenizer, WordPieceTokenizer, "wordpiece",
                 "Words in the longest pieces of a given vocabulary",
                 "Schuster & Nakajima 2012; Devlin et al. 2019");

constexpr size_t kLongestWord = 100;  // characters
constexpr std::string_view kContinues = "##";

utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

bool is_space(char32_t c) {
  if (c < 128) return c == ' ' || c == '\t' || c == '\n' || c == '\r';
  const auto kind = category(c);
  return kind == UTF8PROC_CATEGORY_ZS || kind == UTF8PROC_CATEGORY_ZL ||
         kind == UTF8PROC_CATEGORY_ZP;
}

// Control, format and private characters, U+FFFD and bytes of invalid UTF-8.
bool is_dropped(char32_t c) {
  if (c >= kInvalidByte || c == 0xFFFD) return true;
  const auto kind = category(c);
  return kind == UTF8PROC_CATEGORY_CC || kind == UTF8PROC_CATEGORY_CF ||
         kind == UTF8PROC_CATEGORY_CO;
}

bool is_punctuation(char32_t c) {
  if (c < 128) return std::ispunct(static_cast<int>(c)) != 0;
  const auto kind = category(c);
  return kind >= UTF8PROC_CATEGORY_PC && kind <= UTF8PROC_CATEGORY_PO;
}

// The blocks that BERT takes for Chinese, with the gap at U+2B820 that its followers have.
bool is_chinese(char32_t c) {
  return (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x4E00 && c <= 0x9FFF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x20000 && c <= 0x2A6DF) ||
         (c >= 0x2A700 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
         (c >= 0x2F800 && c <= 0x2FA1F);
}

// fn(part) for c decomposed, without accents, in lower case.
template <class Fn>
void for_each_plain(char32_t c, const Fn& fn) {
  if (c < 128) {
    fn(c >= 'A' && c <= 'Z' ? c + 32 : c);
    return;
  }
  utf8proc_int32_t parts[32];
  int boundary = 0;
  const auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts, 32,
                                             UTF8PROC_DECOMPOSE, &boundary);
  for (utf8proc_ssize_t i = 0; i < count; ++i) {
    if (utf8proc_category(parts[i]) == UTF8PROC_CATEGORY_MN) continue;
    fn(static_cast<char32_t>(utf8proc_tolower(parts[i])));
  }
}

// fn(word) for every word of the text.
template <class Fn>
void for_each_word(std::string_view text, bool lowercase, const Fn& fn) {
  std::string word;
  const auto finish = [&] {
    if (!word.empty()) fn(std::string_view(word));
    word.clear();
  };
  const auto add = [&](char32_t c) {
    const bool alone = is_punctuation(c) || is_chinese(c);
    if (alone) finish();
    append_symbol(word, c);
    if (alone) finish();
  };
  for (size_t at = 0; at < text.size();) {
    const Utf8Symbol s = next_symbol(text, at);
    at += static_cast<size_t>(s.length);
    if (is_space(s.value)) {
      finish();
    } else if (is_dropped(s.value)) {
      continue;
    } else if (lowercase) {
      for_each_plain(s.value, add);
    } else {
      add(s.value);
    }
  }
  finish();
}

WordPieceModel from_stored(const Json& json) {
  try {
    return {json.at("tokens").get<std::vector<std::string>>(), json.at("lowercase").get<bool>(),
            json.at("unknown").get<std::string>(), json.at("begin").get<std::string>(),
            json.at("end").get<std::string>()};
  } catch (const Json::exception& error) {
    fail("wordpiece tokenizer: not a stored vocabulary: {}", error.what());
  }
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    lines.push_back(text.substr(at, end - at));
    if (!lines.back().empty() && lines.back().back() == '\r') lines.back().pop_back();
    at = end + 1;
  }
  return lines;
}

WordPieceModel read_lines(const fs::path& path) {
  WordPieceModel model;
  model.tokens = lines_of(read_file(path.string()));
  const fs::path config = path.parent_path() / "tokenizer_config.json";
  if (fs::exists(config)) {
    const PlainJson lower = member(read_plain_json(config), "do_lower_case");
    if (lower.is_boolean()) model.lowercase = lower.get<bool>();
  }
  return model;
}

// Only BERT's own chain of normalizer and pre-tokenizer.
WordPieceModel read_json_model(const fs::path& path, const PlainJson& json) {
  WordPieceModel model;
  const PlainJson& body = member(json, "model");
  PlainJson vocabulary = member(body, "vocab");
  for (const PlainJson& added : member(json, "added_tokens")) {
    vocabulary[added.at("content").get<std::string>()] = added.at("id");
  }
  model.tokens = tokens_in_order(vocabulary, path.string());
  model.unknown = body.value("unk_token", model.unknown);
  const PlainJson& normalizer = member(json, "normalizer");
  const PlainJson& pre = member(json, "pre_tokenizer");
  check(member(normalizer, "type") == "BertNormalizer" && member(pre, "type") == "BertPreTokenizer",
        "{}: WordPiece with normalizer {} and pre_tokenizer {}; only BERT's are known",
        path.string(), member(normalizer, "type").dump(), member(pre, "type").dump());
  model.lowercase = normalizer.value("lowercase", true);
  const PlainJson& accents = member(normalizer, "strip_accents");
  check(accents.is_null() || accents == model.lowercase,
        "{}: \"strip_accents\" {} with \"lowercase\" {}: only both or neither are known",
        path.string(), accents.dump(), model.lowercase);
  const TextMarks marks = read_text_marks(path.parent_path(), json);
  model.begin = marks.begin;
  model.end = marks.end;
  return model;
}

}  // namespace

WordPieceTokenizer::WordPieceTokenizer(const Config& config, const DataContext& context)
    : WordPieceTokenizer([&] {
        check(config.path.empty() != config.model.is_null(),
              "wordpiece tokenizer: give a path, or a model, not both");
        return config.path.empty()
                   ? from_stored(config.model)
                   : read_wordpiece(find_data(config.path, context, "tokenizer.path"));
      }()) {}

WordPieceTokenizer::WordPieceTokenizer(WordPieceModel model) : model_(std::move(model)) {
  std::optional<int64_t> unknown;
  for (size_t i = 0; i < model_.tokens.size(); ++i) {
    const auto id = static_cast<int64_t>(i);
    const std::string_view token = model_.tokens[i];
    if (token == model_.unknown) {
      unknown = id;
    } else if (!model_.begin.empty() && token == model_.begin) {
      begin_ = id;
    } else if (!model_.end.empty() && token == model_.end) {
      end_ = id;
    } else if (token.size() > kContinues.size() && token.starts_with(kContinues)) {
      continuations_.emplace(token.substr(kContinues.size()), id);
    } else if (!token.empty()) {
      starts_.emplace(token, id);
    }
  }
  check(unknown.has_value(), "wordpiece tokenizer: the vocabulary of {} tokens has no \"{}\"",
        model_.tokens.size(), model_.unknown);
  unknown_ = *unknown;
}

void WordPieceTokenizer::encode_word(std::string_view word, std::vector<int64_t>& ids) const {
  std::vector<size_t> ends;  // of its characters
  for (size_t at = 0; at < word.size();) {
    at += static_cast<size_t>(next_symbol(word, at).length);
    ends.push_back(at);
  }
  if (ends.size() > kLongestWord) {
    ids.push_back(unknown_);
    return;
  }
  const size_t before = ids.size();
  size_t last = ends.size();
  for (size_t begin = 0; begin < word.size();) {
    const auto& pieces = begin == 0 ? starts_ : continuations_;
    auto found = pieces.end();
    for (last = ends.size(); last > 0 && ends[last - 1] > begin && found == pieces.end(); --last) {
      found = pieces.find(word.substr(begin, ends[last - 1] - begin));
    }
    if (found == pieces.end()) {
      ids.resize(before);
      ids.push_back(unknown_);
      return;
    }
    ids.push_back(found->second);
    begin = ends[last];
  }
}

std::vector<int64_t> WordPieceTokenizer::encode(std::string_view text) const {
  std::vector<int64_t> ids;
  std::unordered_map<std::string, std::pair<size_t, size_t>> known;  // places in `ids`
  for_each_word(text, model_.lowercase, [&](std::string_view word) {
    const auto [entry, fresh] = known.try_emplace(std::string(word), ids.size(), 0);
    auto& [begin, count] = entry->second;
    if (fresh) {
      encode_word(word, ids);
      count = ids.size() - begin;
    } else {
      for (size_t i = 0; i < count; ++i) ids.push_back(ids[begin + i]);
    }
  });
  return ids;
}

std::string WordPieceTokenizer::decode(std::span<const int64_t> ids) const {
  std::string text;
  for (const int64_t id : ids) {
    check(id >= 0 && id < vocabulary(), "tokenizer: id {} is outside the vocabulary of {}", id,
          vocabulary());
    std::string_view token = model_.tokens[static_cast<size_t>(id)];
    const bool continues = token.size() > kContinues.size() && token.starts_with(kContinues);
    if (continues) token.remove_prefix(kContinues.size());
    if (!continues && !text.empty()) text += ' ';
    text += token;
  }
  return text;
}

size_t WordPieceTokenizer::last_cut(std::string_view text) const {
  return text.find_last_of(" \t\n\r") + 1;  // npos + 1 is 0
}

Json WordPieceTokenizer::state() const {
  return Json{{"type", "wordpiece"},
              {"model",
               {{"tokens", model_.tokens},
                {"lowercase", model_.lowercase},
                {"unknown", model_.unknown},
                {"begin", model_.begin},
                {"end", model_.end}}}};
}

WordPieceModel read_wordpiece(const fs::path& path) {
  try {
    if (fs::is_directory(path)) {
      return read_wordpiece(path /
                            (fs::exists(path / "tokenizer.json") ? "tokenizer.json" : "vocab.txt"));
    }
    return path.extension() == ".json" ? read_json_model(path, read_plain_json(path))
                                       : read_lines(path);
  } catch (const PlainJson::exception& error) {
    fail("{}: not a vocabulary: {}", path.string(), error.what());
  }
}

}  // namespace tessera
