#include "tessera/attention/attention.h"

#include "tessera/attention/engines/scores.h"
#include "tessera/attention/kv_cache.h"

namespace tessera {

Score score_of(const Positions& positions, Device device) {
  const ScoreBias b = positions.score_bias(device);
  if (!b.table.defined()) return {};
  if (b.kind == ScoreBias::Kind::slopes) return alibi(b.table);
  return bucket_bias(b.table, b.max_distance, b.bidirectional);
}

KvCache Attention::make_cache(int64_t capacity, const CacheOptions& options) const {
  return KvCache(capacity, options);
}

void require_capability(std::string_view user, const ChoiceBase& attention,
                        std::string_view capability) {
  const auto reason = attention.entry().unsupported(capability);
  check(!reason.has_value(), "{}: attention \"{}\" does not support \"{}\": {}", user,
        attention.type(), capability, reason.value_or(""));
}

}  // namespace tessera
