#include <algorithm>
#include <fstream>

#include "tessera/config/json.h"
#include "tessera/core/error.h"
#include "tessera/core/file.h"
#include "tessera/data/bpe.h"
#include "tessera/data/tokenizer_files.h"

namespace tessera {
namespace {
namespace fs = std::filesystem;

using Plain = PlainJson;
using Ids = std::unordered_map<std::string, int32_t>;

Ids ids_of(const std::vector<std::string>& tokens) {
  Ids ids;
  for (size_t i = 0; i < tokens.size(); ++i) ids.emplace(tokens[i], static_cast<int32_t>(i));
  return ids;
}

// "left right" as ids; `line` counts from 1.
std::pair<int32_t, int32_t> merge_of(std::string_view left, std::string_view right, const Ids& ids,
                                     const std::string& where, size_t line) {
  const auto a = ids.find(std::string(left)), b = ids.find(std::string(right));
  check(a != ids.end() && b != ids.end(),
        "{}: merge {}: \"{} {}\": not two tokens of the "
        "vocabulary",
        where, line, left, right);
  return {a->second, b->second};
}

std::pair<int32_t, int32_t> merge_of(const std::string& text, const Ids& ids,
                                     const std::string& where, size_t line) {
  const size_t space = text.find(' ', 1);
  check(space != std::string::npos, "{}: merge {}: \"{}\" has no space between its parts", where,
        line, text);
  return merge_of(std::string_view(text).substr(0, space), std::string_view(text).substr(space + 1),
                  ids, where, line);
}

// Tokens written in byte symbols as bytes. Those that are not (special ones) stay as they are.
void to_bytes(BpeModel& model) {
  for (std::string& token : model.tokens) {
    if (auto bytes = from_byte_symbols(token)) {
      if (!model.specials.contains(token)) token = std::move(*bytes);
    }
  }
}

constexpr const char* kEnd = "<|endoftext|>";

// The ids around a text, by the files beside `path`. GPT-2's end needs no file.
void take_marks(BpeModel& model, const Ids& ids, const Plain& json, const fs::path& path) {
  TextMarks marks = read_text_marks(path.parent_path(), json);
  if (marks.end.empty() && model.specials.contains(kEnd)) marks.end = kEnd;
  const auto id_of = [&](const std::string& token) {
    if (token.empty()) return -1;
    const auto found = ids.find(token);
    check(found != ids.end(), "{}: \"{}\" goes before or behind a text but is no token of it",
          path.string(), token);
    model.specials.emplace(token, found->second);
    return found->second;
  };
  model.begin = id_of(marks.begin);
  model.end = id_of(marks.end);
}

BpeModel read_two_files(const fs::path& vocabulary, const fs::path& merges) {
  BpeModel model;
  model.tokens = tokens_in_order(read_plain_json(vocabulary), vocabulary.string());
  const Ids ids = ids_of(model.tokens);
  std::ifstream in(merges);
  check(in.good(), "{}: cannot be read", merges.string());
  std::string line;
  for (size_t number = 1; std::getline(in, line); ++number) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty() || (number == 1 && line.starts_with("#version"))) continue;
    model.merges.push_back(merge_of(line, ids, merges.string(), number));
  }
  if (const auto end = ids.find(kEnd); end != ids.end()) model.specials[kEnd] = end->second;
  take_marks(model, ids, Plain(), vocabulary);
  to_bytes(model);
  return model;
}

// The rule of pieces that a pre-tokenizer asks for.
PieceRule pieces_of(const Plain& pre, const std::string& where) {
  if (pre.is_null()) return PieceRule::whole;
  const std::string type = pre.value("type", "");
  if (type == "Sequence") {
    for (const Plain& part : member(pre, "pretokenizers")) {
      const PieceRule rule = pieces_of(part, where);
      if (rule != PieceRule::whole) return rule;
    }
    return PieceRule::whole;
  }
  if (type == "ByteLevel") {
    return pre.value("use_regex", true) ? PieceRule::gpt2 : PieceRule::whole;
  }
  if (type == "Split") {
    const std::string regex = member(member(pre, "pattern"), "Regex").is_string()
                                  ? pre["pattern"]["Regex"].get<std::string>()
                                  : "";
    if (regex.find("\\p{N}{1,3}") != std::string::npos) return PieceRule::llama3;
    if (regex.find("[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|") != std::string::npos) {
      return PieceRule::qwen2;
    }
    if (regex.find("'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+") != std::string::npos) {
      return PieceRule::gpt2;
    }
  }
  if (type == "Metaspace") return PieceRule::whole;
  fail("{}: pre_tokenizer {} is not known", where, pre.dump());
}

// A normalizer of SentencePiece models that puts a space before the text.
bool has_prefix(const Plain& normalizer) {
  if (normalizer.is_null()) return false;
  if (normalizer.value("type", "") == "Prepend") return true;
  for (const Plain& part : member(normalizer, "normalizers")) {
    if (has_prefix(part)) return true;
  }
  return false;
}

BpeModel read_tokenizer_json(const fs::path& path) {
  const std::string where = path.string();
  const Plain json = read_plain_json(path);
  const Plain& body = member(json, "model");
  check(body.is_object(), "{}: holds no model", where);
  const std::string type = body.value("type", "BPE");
  check(type == "BPE", "{}: the model is \"{}\"; only BPE is read here", where, type);
  BpeModel model;
  Plain vocabulary = member(body, "vocab");
  for (const Plain& added : member(json, "added_tokens")) {
    const auto content = added.at("content").get<std::string>();
    vocabulary[content] = added.at("id");
    if (added.value("special", false)) model.specials[content] = added.at("id").get<int32_t>();
  }
  model.tokens = tokens_in_order(vocabulary, where);
  const Ids ids = ids_of(model.tokens);
  size_t number = 0;
  for (const Plain& merge : member(body, "merges")) {
    ++number;
    model.merges.push_back(merge.is_array()
                               ? merge_of(merge.at(0).get<std::string>(),
                                          merge.at(1).get<std::string>(), ids, where, number)
                               : merge_of(merge.get<std::string>(), ids, where, number));
  }
  take_marks(model, ids, json, path);
  model.pieces = pieces_of(member(json, "pre_tokenizer"), where);
  model.characters = body.value("byte_fallback", false);
  model.whole_first = body.value("ignore_merges", false);
  if (model.characters) {
    model.pieces = PieceRule::whole;
    model.space_prefix = has_prefix(member(json, "normalizer")) ||
                         member(json, "pre_tokenizer").value("type", "") == "Metaspace";
  } else {
    to_bytes(model);
  }
  return model;
}

// Runs of the time before these were stored have none.
int32_t stored_id(const Json& json, const char* key, int64_t count) {
  const auto id = json.value(key, int64_t{-1});
  check(id >= -1 && id < count, "bpe: \"{}\" is {}, outside the vocabulary of {}", key, id, count);
  return static_cast<int32_t>(id);
}

fs::path first_of(const fs::path& folder, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (fs::exists(folder / name)) return folder / name;
  }
  return {};
}

BpeModel read_any(const fs::path& path) {
  if (path.extension() == ".bin") return read_llama2c_vocabulary(path);
  if (!fs::is_directory(path)) return read_tokenizer_json(path);
  if (const fs::path json = first_of(path, {"tokenizer.json"}); !json.empty()) {
    return read_tokenizer_json(json);
  }
  const fs::path vocabulary = first_of(path, {"vocab.json", "encoder.json"});
  const fs::path merges = first_of(path, {"merges.txt", "vocab.bpe"});
  check(!vocabulary.empty() && !merges.empty(),
        "{}: holds no tokenizer.json, nor vocab.json (encoder.json) with merges.txt (vocab.bpe)",
        path.string());
  return read_two_files(vocabulary, merges);
}

}  // namespace

BpeModel read_bpe(const fs::path& path) {
  try {
    return read_any(path);
  } catch (const Plain::exception& error) {
    fail("{}: not a vocabulary: {}", path.string(), error.what());
  }
}

void write_bpe(const BpeModel& model, const fs::path& folder) {
  check(!model.characters, "bpe: only byte-level vocabularies are written as vocab.json");
  fs::create_directories(folder);
  const auto symbols = [&](int32_t id) {
    const std::string& token = model.tokens[static_cast<size_t>(id)];
    return model.specials.contains(token) ? token : to_byte_symbols(token);
  };
  std::string vocabulary = "{";
  for (size_t id = 0; id < model.tokens.size(); ++id) {
    vocabulary += (id == 0 ? "" : ",\n") + Plain(symbols(static_cast<int32_t>(id))).dump() + ": " +
                  std::to_string(id);
  }
  std::string merges = "#version: 0.2\n";
  for (const auto& [left, right] : model.merges) {
    merges += symbols(left) + ' ' + symbols(right) + '\n';
  }
  write_file_atomic((folder / "vocab.json").string(), vocabulary + "}\n");
  write_file_atomic((folder / "merges.txt").string(), merges);
}

Json to_json_model(const BpeModel& model) {
  Json tokens = Json::array(), merges = Json::array();
  for (const std::string& token : model.tokens) tokens.push_back(to_byte_symbols(token));
  for (const auto& [left, right] : model.merges) merges.push_back(Json::array({left, right}));
  return Json{{"tokens", tokens},
              {"merges", merges},
              {"scores", model.scores},
              {"specials", model.specials},
              {"pieces", to_string(model.pieces)},
              {"characters", model.characters},
              {"whole_first", model.whole_first},
              {"space_prefix", model.space_prefix},
              {"begin", model.begin},
              {"end", model.end}};
}

BpeModel from_json_model(const Json& json, const std::string& where) {
  BpeModel model;
  try {
    for (const Json& token : json.at("tokens")) {
      auto bytes = from_byte_symbols(token.get<std::string>());
      check(bytes.has_value(), "{}: token {} is not written in byte symbols", where, token.dump());
      model.tokens.push_back(std::move(*bytes));
    }
    const auto count = static_cast<int64_t>(model.tokens.size());
    for (const Json& merge : json.at("merges")) {
      const auto left = merge.at(0).get<int64_t>(), right = merge.at(1).get<int64_t>();
      check(left >= 0 && left < count && right >= 0 && right < count,
            "{}: merge {} names tokens outside the vocabulary of {}", where, merge.dump(), count);
      model.merges.emplace_back(static_cast<int32_t>(left), static_cast<int32_t>(right));
    }
    model.specials = json.at("specials").get<std::map<std::string, int32_t>>();
    model.pieces = piece_rule_from_name(json.at("pieces").get<std::string>());
    model.characters = json.at("characters").get<bool>();
    model.whole_first = json.at("whole_first").get<bool>();
    model.space_prefix = json.at("space_prefix").get<bool>();
    model.scores = json.value("scores", std::vector<float>());
    check(model.scores.empty() || model.scores.size() == model.tokens.size(),
          "{}: {} scores of {} tokens", where, model.scores.size(), count);
    model.begin = stored_id(json, "begin", count);
    model.end = stored_id(json, "end", count);
  } catch (const Json::exception& error) {
    fail("{}: not a stored vocabulary: {}", where, error.what());
  }
  return model;
}

}  // namespace tessera
