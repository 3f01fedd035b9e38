// What the files beside a vocabulary say about the tokens around a text.
#pragma once

#include <filesystem>
#include <string>

#include <nlohmann/json.hpp>

namespace tessera {

// Objects of the size of a vocabulary want look-up by key, not the order of a config.
using PlainJson = nlohmann::json;

PlainJson read_plain_json(const std::filesystem::path& path);  // Error naming the byte
// Null for what is no object and for a key that is absent.
const PlainJson& member(const PlainJson& json, const char* key);

// Tokens that encoding puts before a text, and with which a text ends; empty for none.
struct TextMarks {
  std::string begin, end;
};

// Of the post-processor of a tokenizer.json (null: there is none) and of tokenizer_config.json and
// special_tokens_map.json in `folder`. "add_bos_token" decides whether the text gets its begin,
// without it the post-processor; "eos_token" is the end, without it what the post-processor
// appends.
TextMarks read_text_marks(const std::filesystem::path& folder, const PlainJson& tokenizer);

}  // namespace tessera
