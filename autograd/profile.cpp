#include "tessera/autograd/profile.h"

#include <algorithm>
#include <map>

#include "tessera/core/error.h"

namespace tessera {
namespace {

using Key = std::pair<std::string_view, bool>;

thread_local std::map<Key, ProfileRow>* collected = nullptr;
thread_local ProfileTimer* innermost = nullptr;

}  // namespace

ProfileScope::ProfileScope() {
  check(collected == nullptr, "profile: a scope is already open");
  collected = new std::map<Key, ProfileRow>;
}

ProfileScope::~ProfileScope() {
  delete collected;
  collected = nullptr;
}

std::vector<ProfileRow> ProfileScope::rows() const {
  std::vector<ProfileRow> rows;
  for (const auto& [key, row] : *collected) rows.push_back(row);
  std::stable_sort(rows.begin(), rows.end(),
                   [](const auto& a, const auto& b) { return a.seconds > b.seconds; });
  return rows;
}

ProfileTimer::ProfileTimer(std::string_view name, bool backward)
    : on_(collected != nullptr), name_(name), backward_(backward) {
  if (!on_) [[likely]]
    return;
  outer_ = innermost;
  innermost = this;
  start_ = Clock::now();
}

ProfileTimer::~ProfileTimer() {
  if (!on_) [[likely]]
    return;
  const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  innermost = outer_;
  if (outer_ != nullptr) outer_->inside_ += seconds;
  if (collected == nullptr) return;
  ProfileRow& row = (*collected)[{name_, backward_}];
  if (row.calls == 0) row.name = std::string(name_) + (backward_ ? " backward" : "");
  ++row.calls;
  row.seconds += seconds - inside_;
}

}  // namespace tessera
