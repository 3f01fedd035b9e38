// GPT-2 (Radford et al. 2019). Its linear layers are stored (in, out).
#include "tessera/models/exchange/family.h"

namespace tessera {
namespace {

using Absent = SettingRule::Absent;

void write_rest(const Json& ours, Json& theirs) {
  theirs["n_ctx"] = ours.at("data").at("context");
}

const RegisterFamily row{Family{
    .name = "gpt2",
    .architecture = "GPT2LMHeadModel",
    .tensors =
        {.prefix = "transformer.",
         .rules =
             {{"embedding.weight", {"transformer.wte.weight"}},
              {"positions.weight", {"transformer.wpe.weight"}},
              {"blocks.{}.norm1.weight", {"transformer.h.{}.ln_1.weight"}},
              {"blocks.{}.norm1.bias", {"transformer.h.{}.ln_1.bias"}},
              {"blocks.{}.attention.qkv.weight", {"transformer.h.{}.attn.c_attn.weight"}, true},
              {"blocks.{}.attention.qkv.bias", {"transformer.h.{}.attn.c_attn.bias"}},
              {"blocks.{}.attention.out.weight", {"transformer.h.{}.attn.c_proj.weight"}, true},
              {"blocks.{}.attention.out.bias", {"transformer.h.{}.attn.c_proj.bias"}},
              {"blocks.{}.norm2.weight", {"transformer.h.{}.ln_2.weight"}},
              {"blocks.{}.norm2.bias", {"transformer.h.{}.ln_2.bias"}},
              {"blocks.{}.feed_forward.up.weight", {"transformer.h.{}.mlp.c_fc.weight"}, true},
              {"blocks.{}.feed_forward.up.bias", {"transformer.h.{}.mlp.c_fc.bias"}},
              {"blocks.{}.feed_forward.down.weight", {"transformer.h.{}.mlp.c_proj.weight"}, true},
              {"blocks.{}.feed_forward.down.bias", {"transformer.h.{}.mlp.c_proj.bias"}},
              {"norm.weight", {"transformer.ln_f.weight"}},
              {"norm.bias", {"transformer.ln_f.bias"}},
              {"lm_head.weight", {"lm_head.weight"}}},
         .ignored = {"transformer.h.{}.attn.bias", "transformer.h.{}.attn.masked_bias",
                     "lm_head.weight"}},
    .base = {{"model",
              {{"type", "transformer"},
               {"attention", {{"type", "dense"}}},
               {"feed_forward", {{"type", "mlp"}}},
               {"norm", "layer"},
               {"positions", "learned"},
               {"bias", true}}},
             {"data", Json::object()}},
    .fixed = {{"scale_attn_weights", true},
              {"scale_attn_by_inverse_layer_idx", false},
              {"add_cross_attention", false}},
    .settings = {{"model.width", "n_embd"},
                 {"model.depth", "n_layer"},
                 {"model.heads", "n_head"},
                 {"model.feed_forward.hidden", "n_inner", Absent::keeps_default},
                 {"model.feed_forward.activation", "activation_function", Absent::means, "gelu_new",
                  &activation_value_names()},
                 {"model.norm_eps", "layer_norm_epsilon", Absent::means, 1e-5},
                 {"model.tied", "tie_word_embeddings", Absent::means, true},
                 {"data.vocabulary", "vocab_size"},
                 {"data.context", "n_positions"}},
    .write = write_rest}};

}  // namespace
}  // namespace tessera
