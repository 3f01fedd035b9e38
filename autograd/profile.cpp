#include "tessera/autograd/profile.h"

#include <algorithm>
#include <exception>
#include <map>
#include <memory>

#include "tessera/autograd/profile_cuda.h"
#include "tessera/core/error.h"

namespace tessera {
namespace {

using Key = std::pair<std::string_view, bool>;

// On a device: the marks around an op, less those around the ops within it.
struct Span {
  Key key;
  size_t from, to;
  std::vector<size_t> inside;
};

struct Collector {
  std::map<Key, ProfileRow> rows;
  std::shared_ptr<EventMarks> marks;  // null on the CPU
  std::vector<Span> spans;
  std::string failed;
};

std::string text_of(Key key) {
  return std::string(key.first) + (key.second ? " backward" : "");
}

ProfileRow& row_of(std::map<Key, ProfileRow>& rows, Key key) {
  ProfileRow& row = rows[key];
  if (row.calls++ == 0) row.name = text_of(key);
  return row;
}

thread_local Collector* collected = nullptr;
thread_local ProfileTimer* innermost = nullptr;

}  // namespace

ProfileScope::ProfileScope(Device device) {
  check(collected == nullptr, "profile: a scope is already open");
  auto collector = std::make_unique<Collector>();
  if constexpr (kCuda) {
    if (device.is_cuda()) collector->marks = std::make_shared<EventMarks>(device);
  }
  collected = collector.release();
}

ProfileScope::~ProfileScope() {
  delete collected;
  collected = nullptr;
}

std::vector<ProfileRow> ProfileScope::rows() const {
  std::map<Key, ProfileRow> all = collected->rows;
  if constexpr (kCuda) {
    if (collected->marks != nullptr) collected->marks->wait();
    for (const Span& span : collected->spans) {
      const EventMarks& marks = *collected->marks;
      double seconds = marks.seconds(span.from, span.to);
      for (size_t i = 0; i + 1 < span.inside.size(); i += 2) {
        seconds -= marks.seconds(span.inside[i], span.inside[i + 1]);
      }
      row_of(all, span.key).seconds += seconds;
    }
  }
  std::vector<ProfileRow> rows;
  for (const auto& [key, row] : all) rows.push_back(row);
  std::stable_sort(rows.begin(), rows.end(),
                   [](const auto& a, const auto& b) { return a.seconds > b.seconds; });
  return rows;
}

std::string ProfileScope::failed() const {
  return collected->failed;
}

ProfileTimer::ProfileTimer(std::string_view name, bool backward)
    : on_(collected != nullptr), name_(name), backward_(backward) {
  if (on_) [[unlikely]]
    start();
}

ProfileTimer::~ProfileTimer() {
  if (on_) [[unlikely]]
    stop();
}

void ProfileTimer::start() {
  exceptions_ = std::uncaught_exceptions();
  outer_ = innermost;
  innermost = this;
  start_ = Clock::now();
  if constexpr (kCuda) {
    if (collected->marks != nullptr) mark_ = collected->marks->mark();
  }
}

void ProfileTimer::stop() {
  const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  innermost = outer_;
  if (outer_ != nullptr) outer_->inside_ += seconds;
  if (collected == nullptr) return;
  const Key key{name_, backward_};
  if (std::uncaught_exceptions() > exceptions_) {
    if (collected->failed.empty()) collected->failed = text_of(key);
    return;
  }
  if constexpr (kCuda) {
    if (collected->marks != nullptr) {
      const size_t end = collected->marks->mark();
      if (outer_ != nullptr) outer_->pieces_.insert(outer_->pieces_.end(), {mark_, end});
      collected->spans.push_back({key, mark_, end, std::move(pieces_)});
      return;
    }
  }
  row_of(collected->rows, key).seconds += seconds - inside_;
}

}  // namespace tessera
