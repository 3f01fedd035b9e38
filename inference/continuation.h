// A batch of sequences that are continued together, token by token.
#pragma once

#include <memory>
#include <vector>

#include "tessera/core/cuda/download.h"
#include "tessera/inference/batch_sampler.h"
#include "tessera/inference/generate.h"

namespace tessera {

class CapturedGraph;

// Every sequence goes on as it would alone: prompts are padded at their ends, caches know the
// lengths. On a CUDA device a step is recorded into a graph once, and the next one is asked for
// before the ids of the last are read.
class Continuation {
 public:
  // The prompts have tokens, and one length unless the model takes lengths.
  Continuation(LanguageModel& model, std::vector<std::vector<int64_t>> prompts,
               const GenerateOptions& options);
  ~Continuation();

  // The next token of every sequence. `more`: it will be called again.
  std::vector<int64_t> next(bool more);
  // Sequence b is over: its tokens no longer matter.
  void finish(size_t b);

 private:
  bool is_cached() const { return !caches_.empty(); }
  bool has_states() const;
  bool is_full() const;
  bool can_look_ahead() const;
  void ask();
  void prefill();
  void step();
  void work();
  void record();
  void make_caches();
  void retire(size_t b);

  LanguageModel& model_;
  GenerateOptions options_;
  Device device_;
  std::vector<std::vector<int64_t>> tokens_;  // what the model sees of each sequence
  std::vector<bool> over_;
  int64_t longest_;  // that a sequence can become
  BatchSampler sampler_;
  Downloader downloads_;
  std::vector<KvCache> caches_;
  std::unique_ptr<CapturedGraph> graph_;
  int64_t asked_ = 0;  // tokens asked for and not yet read
  int64_t steps_ = 0;
  bool fresh_ = true;  // nothing is in the caches
  bool recordable_;
};

}  // namespace tessera
