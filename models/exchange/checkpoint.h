// Checkpoints of other programs in terms of this one.
#pragma once

#include <filesystem>

#include "tessera/data/tokenizer.h"
#include "tessera/data/transform.h"
#include "tessera/models/exchange/family.h"

namespace tessera {

// What a run folder is made of.
struct ForeignModel {
  ModelSpec spec;
  NamedTensors tensors;                  // the model's state, f32
  std::unique_ptr<Tokenizer> tokenizer;  // of a language model; null where there is none
  TransformList transforms;              // of an image classifier: what evaluation does
};

// A folder of the transformers library: config.json with model.safetensors, or with the files that
// model.safetensors.index.json lists. Reads lazily; f32, f16 and bf16. Throws for unknown families
// and settings and for tensors that do not fit; the tokenizer is left out.
ForeignModel read_hugging_face(const std::filesystem::path& folder);
// Writes config.json and model.safetensors (f32), which the transformers library loads.
void write_hugging_face(const std::filesystem::path& folder, const ModelSpec& spec,
                        const NamedTensors& tensors, const TransformList& transforms);

// A file of llama2.c (version 0: seven i32 sizes, then f32 tensors): a Llama whose rotary pairs are
// neighbours. Ids 3 to 258 are the bytes; the other pieces are shown as their ids and never
// encoded, for the file does not hold them.
bool is_llama2c(const std::filesystem::path& file);
ForeignModel read_llama2c(const std::filesystem::path& file);

}  // namespace tessera
