// English-like text from a small probabilistic grammar.
#pragma once

#include <cstdint>
#include <string>

namespace tessera {

// At least `characters` bytes of ASCII sentences, ending with a whole one. Verbs agree in number
// with their subjects, also across relative clauses and prepositional phrases, "a" becomes "an"
// before a vowel, and clauses nest: what a model must track to lower its loss. The same seed gives
// the same text.
std::string grammar_text(int64_t characters, uint64_t seed);

}  // namespace tessera
