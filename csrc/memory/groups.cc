#include "memory/groups.h"

#include <algorithm>
#include <map>

#include "memory/greedy.h"

namespace warploom::memory {
namespace {

constexpr double kLeastUse = 0.7;  // of a group's rectangle; a looser one is dissolved

struct Unit {  // of the outer problem: a block, or a group with its members' places
  std::vector<int32_t> members;
  Offsets offsets;
};

}  // namespace

Offsets place_groups(const Problem& problem, int64_t& work) {
  if (!problem.plain) return {};
  std::map<int32_t, std::vector<int32_t>> groups;
  for (int32_t i = 0; i < problem.count(); ++i) {
    if (problem.blocks[i].group >= 0) groups[problem.blocks[i].group].push_back(i);
  }
  Problem outer;
  outer.slots = problem.slots;
  std::vector<Unit> units;
  std::vector<char> grouped(problem.blocks.size());
  for (auto& [group, members] : groups) {
    if (members.size() < 2) continue;
    const Problem inner = subproblem(problem, members);
    Offsets offsets = place(inner, ordered(inner, Order::size), Fit::best, work);
    Block whole{height(inner, offsets), problem.slots, 0, group, 1, -1};
    double area = 0;
    for (const int32_t i : members) {
      const Block& b = problem.blocks[i];
      whole.begin = std::min(whole.begin, b.begin);
      whole.end = std::max(whole.end, b.end);
      area += b.area();
    }
    if (area < kLeastUse * whole.area()) continue;
    for (const int32_t i : members) grouped[i] = true;
    outer.blocks.push_back(whole);
    units.push_back({std::move(members), std::move(offsets)});
  }
  if (units.empty()) return {};
  for (int32_t i = 0; i < problem.count(); ++i) {
    if (grouped[i]) continue;
    outer.blocks.push_back(problem.blocks[i]);
    units.push_back({{i}, {0}});
  }
  const Offsets places = place(outer, ordered(outer, Order::size), Fit::best, work);
  Offsets result(problem.blocks.size());
  for (size_t u = 0; u < units.size(); ++u) {
    for (size_t m = 0; m < units[u].members.size(); ++m) {
      result[units[u].members[m]] = places[u] + units[u].offsets[m];
    }
  }
  return result;
}

}  // namespace warploom::memory
