#include "simt/emulator/knowledge.h"

namespace warploom::simt::emulator {

void bounds::raise(uint32_t who, uint32_t before) {
  const auto at = std::lower_bound(entries_.begin(), entries_.end(), who,
                                   [](const entry& e, uint32_t w) { return e.who < w; });
  if (at != entries_.end() && at->who == who) {
    at->before = std::max(at->before, before);
  } else {
    entries_.insert(at, {who, before});
  }
}

void bounds::join(const bounds& other) {
  if (other.entries_.empty()) return;
  if (entries_.empty()) {
    entries_ = other.entries_;
    return;
  }
  std::vector<entry> merged;
  merged.reserve(entries_.size() + other.entries_.size());
  auto a = entries_.begin();
  auto b = other.entries_.begin();
  while (a != entries_.end() || b != other.entries_.end()) {
    if (b == other.entries_.end() || (a != entries_.end() && a->who < b->who)) {
      merged.push_back(*a++);
    } else if (a == entries_.end() || b->who < a->who) {
      merged.push_back(*b++);
    } else {
      merged.push_back({a->who, std::max(a->before, b->before)});
      ++a, ++b;
    }
  }
  entries_.swap(merged);
}

uint32_t bounds::of(uint32_t who) const {
  const auto at = std::lower_bound(entries_.begin(), entries_.end(), who,
                                   [](const entry& e, uint32_t w) { return e.who < w; });
  return at != entries_.end() && at->who == who ? at->before : 0;
}

}  // namespace warploom::simt::emulator
