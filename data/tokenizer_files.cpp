#include "tessera/data/tokenizer_files.h"

#include "tessera/core/error.h"
#include "tessera/core/file.h"

namespace tessera {
namespace {
namespace fs = std::filesystem;

// A token is a string, or an object with its "content".
std::string token_of(const PlainJson& json) {
  if (json.is_string()) return json.get<std::string>();
  const PlainJson& content = member(json, "content");
  return content.is_string() ? content.get<std::string>() : "";
}

// What a post-processor puts around one text.
TextMarks marks_of(const PlainJson& processor) {
  const PlainJson& type = member(processor, "type");
  TextMarks marks;
  if (type == "Sequence") {
    for (const PlainJson& part : member(processor, "processors")) {
      const TextMarks more = marks_of(part);
      if (!more.begin.empty()) marks.begin = more.begin;
      if (!more.end.empty()) marks.end = more.end;
    }
  } else if (type == "BertProcessing" || type == "RobertaProcessing") {
    marks = {processor.at("cls").at(0).get<std::string>(),
             processor.at("sep").at(0).get<std::string>()};
  } else if (type == "TemplateProcessing") {
    bool behind = false;
    for (const PlainJson& part : member(processor, "single")) {
      const PlainJson& special = member(part, "SpecialToken");
      if (special.is_null()) {
        behind = true;
      } else {
        (behind ? marks.end : marks.begin) = special.at("id").get<std::string>();
      }
    }
  }
  return marks;
}

PlainJson read_if_there(const fs::path& path) {
  return fs::exists(path) ? read_plain_json(path) : PlainJson();
}

}  // namespace

PlainJson read_plain_json(const fs::path& path) {
  try {
    return PlainJson::parse(read_file(path.string()));
  } catch (const PlainJson::parse_error& error) {
    fail("{}: not JSON at byte {}", path.string(), error.byte);
  }
}

const PlainJson& member(const PlainJson& json, const char* key) {
  static const PlainJson none;
  return json.is_object() && json.contains(key) ? json.at(key) : none;
}

std::vector<std::string> tokens_in_order(const PlainJson& vocabulary, const std::string& where) {
  check(vocabulary.is_object() && !vocabulary.empty(), "{}: the vocabulary is no object of tokens",
        where);
  std::vector<std::string> tokens(vocabulary.size());
  std::vector<bool> seen(tokens.size());
  for (const auto& [token, id] : vocabulary.items()) {
    check(id.is_number_integer() && id.get<int64_t>() >= 0 &&
              id.get<int64_t>() < static_cast<int64_t>(tokens.size()) && !seen[id.get<size_t>()],
          "{}: token \"{}\" has id {}; ids must be 0 to {}, each once", where, token, id.dump(),
          tokens.size() - 1);
    tokens[id.get<size_t>()] = token;
    seen[id.get<size_t>()] = true;
  }
  return tokens;
}

TextMarks read_text_marks(const fs::path& folder, const PlainJson& tokenizer) {
  TextMarks marks = marks_of(member(tokenizer, "post_processor"));
  const PlainJson config = read_if_there(folder / "tokenizer_config.json");
  const PlainJson map = read_if_there(folder / "special_tokens_map.json");
  const auto named = [&](const char* key) {
    const std::string token = token_of(member(config, key));
    return token.empty() ? token_of(member(map, key)) : token;
  };
  if (const PlainJson& adds = member(config, "add_bos_token"); adds.is_boolean()) {
    marks.begin = adds.get<bool>() ? named("bos_token") : "";
  }
  if (const std::string end = named("eos_token"); !end.empty()) marks.end = end;
  return marks;
}

}  // namespace tessera
