#include "simt/emulator/shadow.h"

#include <algorithm>
#include <cstring>
#include <iterator>

namespace warploom::simt::emulator {

void far_traces::add(cell& c, const trace& t) {
  if (c.count < cell::near) {
    c.traces[c.count++] = t;
    return;
  }
  if (c.far == 0) {
    if (!free_.empty()) {
      c.far = free_.back() + 1;
      free_.pop_back();
    } else {
      if (used_ == lists_.size()) lists_.emplace_back();
      c.far = static_cast<uint32_t>(++used_);
    }
  }
  auto& list = lists_[c.far - 1];
  list.resize(static_cast<size_t>(c.count - cell::near));
  list.push_back(t);
  ++c.count;
}

void far_traces::remove(cell& c, int i) {
  at(c, i) = at(c, c.count - 1);
  --c.count;
}

cell& global_shadow::at(const void* p) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  page& found = find(address / page_bytes);
  if (found.launch != launch_) {
    for (cell& c : found.cells) c.count = 0, c.far = 0;
    found.launch = launch_;
  }
  return found.cells[address % page_bytes / 16];
}

global_shadow::page& global_shadow::find(uintptr_t number) {
  cached& c = cache_[number % std::size(cache_)];
  if (c.number != number) {
    auto& slot = pages_[number];
    if (!slot) slot = std::make_unique<page>();
    c = {number, slot.get()};
  }
  return *c.p;
}

void global_shadow::declare(const char* low, const char* high, bool written) {
  auto at = reinterpret_cast<uintptr_t>(low);
  const auto end = reinterpret_cast<uintptr_t>(high);
  while (at < end) {
    const uintptr_t next = std::min(end, (at | 15) + 1);
    const auto bytes = static_cast<uint16_t>(((1u << (next - at)) - 1u) << (at & 15));
    cell& c = find(at / page_bytes).cells[at % page_bytes / 16];
    c.valid = static_cast<uint16_t>(written ? c.valid | bytes : c.valid & ~bytes);
    at = next;
  }
}

const char* global_shadow::first_unwritten(const char* low, const char* high) {
  for (const char* p = low; p < high; ++p) {
    const auto at = reinterpret_cast<uintptr_t>(p);
    const cell& c = find(at / page_bytes).cells[at % page_bytes / 16];
    if (!(c.valid >> (at & 15) & 1u)) return p;
  }
  return nullptr;
}

void global_shadow::forget() {
  pages_.clear();
  for (cached& c : cache_) c = {};
}

uint16_t places::number(site at) {
  const auto key = reinterpret_cast<uintptr_t>(at.file_name()) / 8 + at.line() * 31u + at.column();
  cached& c = cache_[key % std::size(cache_)];
  if (c.file == at.file_name() && c.line == at.line() && c.column == at.column()) return c.number;
  size_t i = 0;
  while (i < known_.size() &&
         !(known_[i].line() == at.line() && known_[i].column() == at.column() &&
           std::strcmp(known_[i].file_name(), at.file_name()) == 0)) {
    ++i;
  }
  if (i == known_.size() && i <= 0xffff) known_.push_back(at);
  // Past 65536 places the last one stands for the rest: only the name in a report suffers.
  i = std::min(i, known_.size() - 1);
  c = {at.file_name(), at.line(), at.column(), static_cast<uint16_t>(i)};
  return c.number;
}

}  // namespace warploom::simt::emulator
