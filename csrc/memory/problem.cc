#include "memory/problem.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "memory/error.h"

namespace warploom::memory {
namespace {

struct Event {
  int64_t time;
  int32_t block;
  bool begins;
};

// Gives blocks their slots from events in order, ends before begins at equal times. Returns the
// number of slots.
int32_t assign_slots(const std::vector<Event>& events, std::vector<Block>& blocks) {
  int32_t slot = 0;
  bool begun = false;  // in this slot
  for (const Event& event : events) {
    if (event.begins) {
      blocks[event.block].begin = slot;
      begun = true;
    } else {
      if (begun) ++slot;
      begun = false;
      blocks[event.block].end = slot;
    }
  }
  return slot;
}

void sort_events(std::vector<Event>& events) {
  std::sort(events.begin(), events.end(), [](const Event& a, const Event& b) {
    if (a.time != b.time) return a.time < b.time;
    if (a.begins != b.begins) return !a.begins;
    return a.block < b.block;
  });
}

void check(const wl_memory_problem& given) {
  if (given.count < 0 || given.count > std::numeric_limits<int32_t>::max() / 2) {
    invalid("count is ", given.count, ": must be 0 to ", std::numeric_limits<int32_t>::max() / 2);
  }
  if (given.count && (!given.size || !given.alloc || !given.free)) {
    invalid("size, alloc or free is NULL");
  }
  if (given.alignment < 1) invalid("alignment is ", given.alignment, ": must be at least 1");
  int64_t total = 0;
  for (int64_t i = 0; i < given.count; ++i) {
    if (given.size[i] < 0) {
      invalid("size of request ", i, " is ", given.size[i], ": must be at least 0");
    }
    if (given.free[i] <= given.alloc[i]) {
      invalid("free of request ", i, " is ", given.free[i], ": must be after its alloc, ",
              given.alloc[i]);
    }
    const int64_t own = given.alignments ? given.alignments[i] : given.alignment;
    if (own < 1 || own % given.alignment != 0) {
      invalid("alignment of request ", i, " is ", own, ": must be a multiple of ", given.alignment);
    }
    const int64_t fixed = given.fixed ? given.fixed[i] : -1;
    if (fixed < -1 || (fixed >= 0 && fixed % own != 0)) {
      invalid("fixed offset of request ", i, " is ", fixed, ": must be -1 or a multiple of ", own);
    }
    int64_t grown;
    if (__builtin_add_overflow(total, given.size[i], &grown) ||
        __builtin_add_overflow(grown, own + given.alignment + std::max<int64_t>(fixed, 0),
                               &total)) {
      invalid("sizes: must be less than 2^63 bytes together");
    }
  }
}

// Throws if two given offsets share a byte at a time.
void check_fixed(const Problem& problem, const std::vector<int64_t>& request) {
  std::vector<int32_t> given;
  for (int32_t i = 0; i < problem.count(); ++i) {
    if (problem.blocks[i].fixed >= 0) given.push_back(i);
  }
  std::sort(given.begin(), given.end(), [&](int32_t a, int32_t b) {
    return problem.blocks[a].fixed < problem.blocks[b].fixed;
  });
  for (size_t i = 0; i < given.size(); ++i) {
    const Block& a = problem.blocks[given[i]];
    for (size_t j = i + 1; j < given.size(); ++j) {
      const Block& b = problem.blocks[given[j]];
      if (b.fixed >= a.fixed + a.size) break;
      if (a.begin < b.end && b.begin < a.end) {
        invalid("fixed offsets of requests ", request[given[i]], " and ", request[given[j]],
                " overlap while both are held");
      }
    }
  }
}

}  // namespace

Input::Input(const wl_memory_problem& given) : unit(given.alignment), peak_time(0) {
  check(given);
  std::vector<Event> events;
  for (int64_t i = 0; i < given.count; ++i) {
    if (given.size[i] == 0) continue;
    Block block{};
    block.size = (given.size[i] - 1) / unit + 1;
    block.alignment = given.alignments ? given.alignments[i] / unit : 1;
    block.fixed = given.fixed && given.fixed[i] >= 0 ? given.fixed[i] / unit : -1;
    block.group = given.group ? given.group[i] : -1;
    problem.plain = problem.plain && block.alignment == 1 && block.fixed < 0;
    const int32_t id = int32_t(problem.blocks.size());
    events.push_back({given.alloc[i], id, true});
    events.push_back({given.free[i], id, false});
    problem.blocks.push_back(block);
    request.push_back(i);
  }
  sort_events(events);
  problem.slots = assign_slots(events, problem.blocks);
  check_fixed(problem, request);
  int64_t held = 0, most = 0;
  for (const Event& event : events) {
    held += event.begins ? problem.blocks[event.block].size : -problem.blocks[event.block].size;
    if (held > most) most = held, peak_time = event.time;
  }
}

Problem subproblem(const Problem& whole, const std::vector<int32_t>& chosen) {
  Problem part;
  part.plain = whole.plain;
  part.blocks.reserve(chosen.size());
  std::vector<Event> events;
  events.reserve(2 * chosen.size());
  for (const int32_t i : chosen) {
    const int32_t id = int32_t(part.blocks.size());
    events.push_back({whole.blocks[i].begin, id, true});
    events.push_back({whole.blocks[i].end, id, false});
    part.blocks.push_back(whole.blocks[i]);
  }
  sort_events(events);
  part.slots = assign_slots(events, part.blocks);
  return part;
}

std::vector<int64_t> load(const Problem& problem) {
  std::vector<int64_t> held(size_t(problem.slots) + 1);
  for (const Block& block : problem.blocks) {
    held[block.begin] += block.size;
    held[block.end] -= block.size;
  }
  std::partial_sum(held.begin(), held.end(), held.begin());
  held.pop_back();
  return held;
}

int64_t lower_bound(const Problem& problem) {
  int64_t bound = 0;
  for (const int64_t held : load(problem)) bound = std::max(bound, held);
  for (const Block& block : problem.blocks) {
    if (block.fixed >= 0) bound = std::max(bound, block.fixed + block.size);
  }
  return bound;
}

int64_t height(const Problem& problem, const Offsets& offsets) {
  int64_t top = 0;
  for (size_t i = 0; i < offsets.size(); ++i) {
    top = std::max(top, offsets[i] + problem.blocks[i].size);
  }
  return top;
}

}  // namespace warploom::memory
