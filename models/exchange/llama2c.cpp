#include <array>
#include <cstring>

#include "tessera/core/create.h"
#include "tessera/core/file.h"
#include "tessera/core/view.h"
#include "tessera/data/bpe.h"
#include "tessera/models/exchange/checkpoint.h"

namespace tessera {
namespace fs = std::filesystem;
namespace {

struct Header {
  int32_t width, hidden, depth, heads, kv_heads, vocabulary, context;
};

Header read_header(const MappedFile& file) {
  check(file.size() >= static_cast<int64_t>(sizeof(Header)),
        "{}: {} bytes are too few for the header of a llama2.c file", file.path(), file.size());
  Header h{};
  std::memcpy(&h, file.data(), sizeof h);
  const auto sane = [](int32_t size) { return size > 0 && size <= 1 << 20; };
  check(sane(h.width) && sane(h.hidden) && sane(h.depth) && sane(h.heads) && sane(h.kv_heads) &&
            sane(std::abs(h.vocabulary)) && sane(h.context) && h.width % h.heads == 0 &&
            h.heads % h.kv_heads == 0,
        "{}: not a llama2.c file of version 0 (sizes {} {} {} {} {} {} {})", file.path(), h.width,
        h.hidden, h.depth, h.heads, h.kv_heads, h.vocabulary, h.context);
  return h;
}

// The stacked tensors of the file one after the other, each layer under the name it has in a Llama
// checkpoint.
class Reader {
 public:
  explicit Reader(std::shared_ptr<MappedFile> file) : file_(std::move(file)) {}

  void one(const std::string& name, const Shape& shape) { tensors.emplace_back(name, next(shape)); }
  void layers(const std::string& name, int64_t depth, const Shape& shape) {
    for (int64_t i = 0; i < depth; ++i) {
      one(fmt::format("model.layers.{}.{}.weight", i, name), shape);
    }
  }
  void skip(int64_t floats) { at_ += floats * size_of(DType::f32); }
  void finish() const {
    check(at_ == file_->size(), "{}: its sizes ask for {} bytes, it has {}", file_->path(), at_,
          file_->size());
  }

  NamedTensors tensors;

 private:
  Tensor next(const Shape& shape) {
    const int64_t bytes = shape.numel() * size_of(DType::f32);
    check(bytes <= file_->size() - at_, "{}: cut short: a tensor of shape {} at byte {} of {}",
          file_->path(), shape, at_, file_->size());
    auto storage = std::make_shared<Storage>(file_->data() + at_, bytes, file_);
    at_ += bytes;
    return Tensor(std::move(storage), shape, contiguous_strides(shape), 0, DType::f32);
  }

  std::shared_ptr<MappedFile> file_;
  int64_t at_ = sizeof(Header);
};

NamedTensors read_tensors(std::shared_ptr<MappedFile> file, const Header& h) {
  Reader reader(std::move(file));
  const int64_t kv = h.width / h.heads * h.kv_heads;
  reader.one("model.embed_tokens.weight", {std::abs(h.vocabulary), h.width});
  reader.layers("input_layernorm", h.depth, {h.width});
  reader.layers("self_attn.q_proj", h.depth, {h.width, h.width});
  reader.layers("self_attn.k_proj", h.depth, {kv, h.width});
  reader.layers("self_attn.v_proj", h.depth, {kv, h.width});
  reader.layers("self_attn.o_proj", h.depth, {h.width, h.width});
  reader.layers("post_attention_layernorm", h.depth, {h.width});
  reader.layers("mlp.gate_proj", h.depth, {h.hidden, h.width});
  reader.layers("mlp.down_proj", h.depth, {h.width, h.hidden});
  reader.layers("mlp.up_proj", h.depth, {h.hidden, h.width});
  reader.one("model.norm.weight", {h.width});
  reader.skip(int64_t{h.context} * (h.width / h.heads));  // tables of sines and cosines
  if (h.vocabulary < 0) reader.one("lm_head.weight", {std::abs(h.vocabulary), h.width});
  reader.finish();
  return std::move(reader.tensors);
}

Json config_of(const Header& h) {
  return {{"model_type", "llama"},
          {"hidden_size", h.width},
          {"num_hidden_layers", h.depth},
          {"num_attention_heads", h.heads},
          {"num_key_value_heads", h.kv_heads},
          {"intermediate_size", h.hidden},
          {"rms_norm_eps", 1e-5},
          {"vocab_size", std::abs(h.vocabulary)},
          {"max_position_embeddings", h.context},
          {"tie_word_embeddings", h.vocabulary > 0}};
}

BpeModel byte_pieces(int64_t vocabulary) {
  constexpr int64_t kFirstByte = 3;
  BpeModel model;
  for (int64_t id = 0; id < vocabulary; ++id) {
    const int64_t byte = id - kFirstByte;
    const bool is_byte = byte >= 0 && byte < 256;
    model.tokens.push_back(is_byte ? std::string(1, static_cast<char>(byte))
                                   : fmt::format("<{}>", id));
  }
  model.pieces = PieceRule::whole;
  model.begin = model.end = 1;
  return model;
}

}  // namespace

bool is_llama2c(const fs::path& file) {
  return fs::is_regular_file(file) && file.extension() == ".bin";
}

ForeignModel read_llama2c(const fs::path& path) {
  const auto file = MappedFile::open(path.string());
  const Header header = read_header(*file);
  const Json config = config_of(header);
  const std::string name = path.string();
  const Family& family = find_family(config, name);
  const NamedTensors theirs = read_tensors(file, header);
  ForeignModel result;
  result.spec = read_spec(family, config, path.string());
  Json model = to_json(result.spec.model);
  model["positions"]["interleaved"] = true;
  result.spec.model = from_json<Choice<Model>>(model);
  try {
    const auto built = result.spec.model.build(result.spec.data);
    result.tensors = to_ours(family.tensors, joined_rows(result.spec), built->state(), theirs);
  } catch (const Error& error) {
    fail("{}: {}", path.string(), error.what());
  }
  result.tokenizer = std::make_unique<BpeTokenizer>(byte_pieces(result.spec.data.vocabulary));
  return result;
}

}  // namespace tessera
