#include "tessera/data/grammar.h"

#include <array>
#include <cctype>
#include <span>
#include <string_view>

#include "tessera/core/random.h"

namespace tessera {

namespace {

struct Word {
  std::string_view singular, plural;
};

constexpr Word kNouns[] = {
    {"dog", "dogs"},       {"cat", "cats"},           {"owl", "owls"},
    {"fox", "foxes"},      {"child", "children"},     {"woman", "women"},
    {"man", "men"},        {"teacher", "teachers"},   {"farmer", "farmers"},
    {"artist", "artists"}, {"engineer", "engineers"}, {"king", "kings"},
    {"horse", "horses"},   {"mouse", "mice"},         {"elephant", "elephants"},
    {"sailor", "sailors"}};
constexpr Word kPlaces[] = {{"river", "rivers"},   {"house", "houses"},   {"old tree", "old trees"},
                            {"garden", "gardens"}, {"island", "islands"}, {"bridge", "bridges"}};
constexpr Word kTransitive[] = {{"sees", "see"},       {"chases", "chase"}, {"likes", "like"},
                                {"follows", "follow"}, {"helps", "help"},   {"admires", "admire"},
                                {"hears", "hear"},     {"knows", "know"}};
constexpr Word kIntransitive[] = {{"sleeps", "sleep"},
                                  {"sings", "sing"},
                                  {"waits", "wait"},
                                  {"runs", "run"},
                                  {"laughs", "laugh"}};
constexpr Word kReporting[] = {{"thinks", "think"}, {"says", "say"}, {"hopes", "hope"}};
constexpr std::string_view kAdjectives[] = {"small", "old",   "clever", "angry", "brown",
                                            "quiet", "eager", "happy",  "young"};
constexpr std::string_view kAdverbs[] = {"quietly", "often", "slowly", "today", "again"};
constexpr std::string_view kPrepositions[] = {"near", "behind", "under", "beside"};

class Writer {
 public:
  explicit Writer(uint64_t seed) : random_(seed) {}

  std::string sentence() {
    text_.clear();
    clause(0);
    text_[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(text_[0])));
    return text_ + (chance(0.9) ? "." : "!");
  }
  bool chance(double probability) { return random_.uniform() < probability; }

 private:
  template <class T, size_t N>
  const T& any(const T (&list)[N]) {
    return list[static_cast<size_t>(random_.below(static_cast<int64_t>(N)))];
  }
  void say(std::string_view word) {
    if (!text_.empty()) text_ += ' ';
    text_ += word;
  }
  void say(const Word& word, bool plural) { say(plural ? word.plural : word.singular); }

  void clause(int depth) {
    const bool plural = noun_phrase(depth);
    verb_phrase(plural, depth);
    if (depth == 0 && chance(0.15)) {
      say("and");
      clause(depth + 1);
    }
  }

  // Says a subject or object and answers whether it is plural.
  bool noun_phrase(int depth) {
    const bool plural = chance(0.45);
    const std::string_view determiner = any(plural ? kPluralDeterminers : kSingularDeterminers);
    say(determiner);
    const size_t end = text_.size();
    if (chance(0.3)) say(any(kAdjectives));
    say(any(kNouns), plural);
    if (determiner == "a" && std::string_view("aeiou").find(text_[end + 1]) != std::string::npos) {
      text_.insert(end, 1, 'n');
    }
    if (depth < 3 && chance(0.25))
      relative_clause(plural, depth + 1);
    else if (chance(0.15))
      place();
    return plural;
  }

  void relative_clause(bool plural, int depth) {
    say("that");
    if (chance(0.6)) {
      verb_phrase(plural, depth);
    } else {
      const bool plural_subject = noun_phrase(depth);
      say(any(kTransitive), plural_subject);
    }
  }

  void verb_phrase(bool plural, int depth) {
    const double kind = random_.uniform();
    if (kind < 0.55) {
      say(any(kTransitive), plural);
      noun_phrase(depth + 1);
    } else if (kind < 0.85 || depth >= 2) {
      say(any(kIntransitive), plural);
      if (chance(0.3)) place();
    } else {
      say(any(kReporting), plural);
      say("that");
      clause(depth + 1);
    }
    if (chance(0.12)) say(any(kAdverbs));
  }

  void place() {
    say(any(kPrepositions));
    say("the");
    say(any(kPlaces), chance(0.3));
  }

  static constexpr std::string_view kSingularDeterminers[] = {"the", "a", "every", "this"};
  static constexpr std::string_view kPluralDeterminers[] = {"the", "some", "many", "these"};

  Generator random_;
  std::string text_;
};

}  // namespace

std::string grammar_text(int64_t characters, uint64_t seed) {
  Writer writer(seed);
  std::string text;
  while (static_cast<int64_t>(text.size()) < characters) {
    text += writer.sentence();
    text += writer.chance(0.2) ? '\n' : ' ';
  }
  return text;
}

}  // namespace tessera
