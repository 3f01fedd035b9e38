// Byte-pair encoding (Sennrich et al. 2016): byte-level as GPT-2 and Llama 3 do it, or over
// characters with bytes to fall back on, as Llama 2 does.
#pragma once

#include <map>
#include <optional>
#include <unordered_map>

#include <nlohmann/json.hpp>

#include "tessera/data/dataset.h"
#include "tessera/data/pieces.h"
#include "tessera/data/tokenizer.h"

namespace tessera {

// Vocabulary and merges, ids being places in `tokens`.
struct BpeModel {
  std::vector<std::string> tokens;                  // their bytes
  std::vector<std::pair<int32_t, int32_t>> merges;  // ids of the parts, the most frequent first
  std::vector<float> scores;  // of tokens, instead of merges: the best that neighbours make is next
  std::map<std::string, int32_t> specials;  // never made from plain text
  PieceRule pieces = PieceRule::gpt2;
  bool characters = false;       // begin with code points; those unknown become byte tokens <0xNN>
  bool whole_first = false;      // a piece that is a token is that token, whatever the merges say
  bool space_prefix = false;     // of characters: a space goes before the text
  int32_t begin = -1, end = -1;  // ids that go before a text and behind it; −1 for none
};

// GPT-2 prints bytes as characters: 33–126, 161–172 and 174–255 as themselves, the others in order
// from U+0100 on.
std::string to_byte_symbols(std::string_view bytes);
std::optional<std::string> from_byte_symbols(std::string_view text);  // none if not made of them

// Text as ids and back.
class BpeTokenizer : public Tokenizer {
 public:
  struct Config {
    std::string path;
    Json model;
    TESSERA_FIELDS(f)
    {
      f("path", path,
        "a tokenizer.json, or a folder with one or with vocab.json (encoder.json) and merges.txt "
        "(vocab.bpe); tokenizer_config.json beside them is read too; or a tokenizer.bin of "
        "llama2.c");
      f("model", model, "instead of path: the vocabulary itself, as a run stores it");
    }
  };
  BpeTokenizer(const Config& config, const DataContext& context);
  explicit BpeTokenizer(BpeModel model);

  int64_t vocabulary() const override { return static_cast<int64_t>(model_.tokens.size()); }
  std::vector<int64_t> encode(std::string_view text) const override;
  std::vector<int64_t> encode_more(std::string_view text) const override;
  size_t last_cut(std::string_view text) const override;
  std::string decode(std::span<const int64_t> ids) const override;
  std::optional<int64_t> begin_of_text() const override;
  std::optional<int64_t> end_of_text() const override;
  Json state() const override;
  const BpeModel& model() const { return model_; }

 private:
  std::vector<int64_t> encode(std::string_view text, bool prefix) const;
  struct Merge {
    int32_t rank, result;
  };
  void index();
  void add_merges();
  void add_scored_merges();
  template <class Fn>
  void for_each_part(std::string_view text, const Fn& fn) const;
  void encode_piece(std::string_view piece, std::vector<int32_t>& ids) const;
  void begin_symbols(std::string_view piece, std::vector<int32_t>& ids) const;
  void merge(std::vector<int32_t>& ids) const;
  const Merge* merge_of(int32_t left, int32_t right) const;

  BpeModel model_;
  std::unordered_map<std::string_view, int32_t> ids_;
  std::unordered_map<uint64_t, Merge> merges_;
  int32_t bytes_[256];  // ids of single bytes, −1 for none
  std::unordered_map<int32_t, char> byte_of_;
  bool marks_begin_ = false;  // no token has a space behind another character: words stay apart
};

// Reads what `path` names (see Config); errors name file and entry.
BpeModel read_bpe(const std::filesystem::path& path);
// A tokenizer.bin of llama2.c: i32 length of the longest token, then per token its f32 score, i32
// length and bytes; ids 0, 1 and 2 are <unk>, <s> and </s>, and <s> both begins and ends a text.
BpeModel read_llama2c_vocabulary(const std::filesystem::path& path);
// Writes vocab.json and merges.txt of a byte-level model.
void write_bpe(const BpeModel& model, const std::filesystem::path& folder);
Json to_json_model(const BpeModel& model);
BpeModel from_json_model(const Json& json, const std::string& where);

// Learns a byte-level vocabulary of `size` tokens: 256 bytes, then merges of the most frequent pair
// of neighbours, ties to the smaller left id, then to the smaller right id; stops early when no
// pair occurs twice. `specials` come last.
BpeModel train_bpe(std::string_view text, int64_t size, PieceRule pieces,
                   const std::vector<std::string>& specials = {});

}  // namespace tessera
