#include "memory/exact.h"

#include <algorithm>
#include <limits>
#include <map>
#include <tuple>

namespace warploom::memory {
namespace {

constexpr int64_t kFirstRestart = 4000;          // nodes
constexpr size_t kMostFailed = size_t(1) << 20;  // states that are remembered
constexpr double kTouch = 1.5, kLevel = 4.0;     // of a block that meets a wall of its valley
constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

}  // namespace

ExactSearch::ExactSearch(const Problem& problem, int64_t capacity, uint64_t seed)
    : problem_(problem),
      capacity_(capacity),
      random_(seed),
      offsets_(problem.blocks.size(), -1),
      floor_(size_t(problem.slots)),
      left_(load(problem)),
      lowest_(problem.blocks.size()),
      failures_(size_t(problem.slots), 1.0),
      twin_(problem.blocks.size(), -1) {
  std::map<std::tuple<int32_t, int32_t, int64_t>, int32_t> seen;
  for (int32_t i = 0; i < problem.count(); ++i) {
    names_.push_back(random_.next());
    const Block& b = problem.blocks[i];
    const auto [place, is_new] = seen.try_emplace({b.begin, b.end, b.size}, i);
    if (!is_new) twin_[i] = place->second, place->second = i;
  }
}

Verdict ExactSearch::run(int64_t most_work, int64_t& work) {
  most_work_ = spent_ + most_work;
  const int64_t before = spent_;
  std::vector<int32_t> all(problem_.blocks.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = int32_t(i);
  Verdict verdict = Verdict::unknown;
  while (verdict == Verdict::unknown && spent_ < most_work_) {
    const int way = restarts_ % 4;
    worth_.clear();
    for (const Block& b : problem_.blocks) {
      const double base = way == 0   ? b.area()
                          : way == 1 ? double(b.length())
                          : way == 2 ? double(b.size)
                                     : b.area() * b.length();
      worth_.push_back(base * (restarts_ < 4 ? 1.0 : 0.6 + 0.8 * random_.uniform()));
    }
    nodes_ = 0;
    most_nodes_ = kFirstRestart << std::min(restarts_ / 4, 40);
    ++restarts_;
    stopped_ = false;
    if (solve_parts(0, problem_.slots, all)) {
      verdict = Verdict::found;
    } else if (!stopped_) {
      verdict = Verdict::none;
    }
    if (verdict != Verdict::found) undo(0);
  }
  work += spent_ - before;
  return verdict;
}

// The parts of a stretch that no block joins, one after another. Where one fails, none stays
// placed.
bool ExactSearch::solve_parts(int32_t begin, int32_t end, const std::vector<int32_t>& blocks) {
  std::vector<int32_t> change(size_t(end - begin) + 1);  // in how many live on from the slot before
  for (const int32_t i : blocks) {
    const Block& b = problem_.blocks[i];
    ++change[b.begin + 1 - begin];
    --change[b.end - begin];
  }
  std::vector<int32_t> part_of(size_t(end - begin)), ends;
  int32_t across = 0;
  for (int32_t slot = begin; slot < end; ++slot) {
    across += change[slot - begin];
    if (slot > begin && across == 0) ends.push_back(slot);
    part_of[slot - begin] = int32_t(ends.size());
  }
  ends.push_back(end);
  if (ends.size() == 1) return solve(begin, end, blocks);
  std::vector<std::vector<int32_t>> parts(ends.size());
  for (const int32_t i : blocks) parts[part_of[problem_.blocks[i].begin - begin]].push_back(i);
  std::vector<size_t> order;  // small ones first: they fail soonest
  for (size_t p = 0; p < parts.size(); ++p) {
    if (!parts[p].empty()) order.push_back(p);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return parts[a].size() < parts[b].size(); });
  const size_t before = trail_.size();
  for (const size_t p : order) {
    if (solve(p ? ends[p - 1] : begin, ends[p], parts[p])) continue;
    for (const int32_t i : blocks) unplace(i);
    undo(before);
    return false;
  }
  return true;
}

bool ExactSearch::solve(int32_t begin, int32_t end, const std::vector<int32_t>& blocks) {
  if (blocks.empty()) return true;
  spent_ += 4 + int64_t(blocks.size());
  if (++nodes_ > most_nodes_ || spent_ > most_work_) {
    stopped_ = true;
    return false;
  }
  const size_t before = trail_.size();
  if (!propagate(blocks)) {
    undo(before);
    return false;
  }
  const Key here = key(begin, end, blocks);
  if (failed_.contains(here)) {
    undo(before);
    return false;
  }
  const Choice choice = choose(begin, end, blocks);
  for (const int32_t i : choice.blocks) {
    if (place(i, choice.level, begin, end, blocks)) return true;
    if (stopped_) return undo(before), false;
  }
  if (choice.may_skip && skip(choice, begin, end, blocks)) return true;
  undo(before);
  if (!stopped_ && failed_.size() < kMostFailed) failed_.insert(here);
  return false;
}

// Raises every slot to where the lowest block to come can lie; false where one has no room left.
bool ExactSearch::propagate(const std::vector<int32_t>& blocks) {
  static thread_local std::vector<int64_t> least;
  least.resize(floor_.size());
  for (bool changed = true; changed;) {
    changed = false;
    for (const int32_t i : blocks) {
      const Block& b = problem_.blocks[i];
      int64_t top = 0;
      for (int32_t s = b.begin; s < b.end; ++s) top = std::max(top, floor_[s]);
      lowest_[i] = top;
      for (int32_t s = b.begin; s < b.end; ++s) least[s] = kNever;
    }
    for (const int32_t i : blocks) {
      const Block& b = problem_.blocks[i];
      for (int32_t s = b.begin; s < b.end; ++s) least[s] = std::min(least[s], lowest_[i]);
    }
    for (const int32_t i : blocks) {
      const Block& b = problem_.blocks[i];
      for (int32_t s = b.begin; s < b.end; ++s) {
        if (least[s] <= floor_[s]) continue;
        if (!raise(s, least[s])) return false;
        changed = true;
      }
    }
  }
  return fits(blocks);
}

// In each slot the blocks to come lie on one another, none below its lowest offset: at best in the
// order of these offsets.
bool ExactSearch::fits(const std::vector<int32_t>& blocks) {
  static thread_local std::vector<std::pair<int64_t, int32_t>> order;
  static thread_local std::vector<int64_t> tops;
  order.clear();
  for (const int32_t i : blocks) order.emplace_back(lowest_[i], i);
  std::sort(order.begin(), order.end());
  tops.assign(floor_.begin(), floor_.end());
  for (const auto& [lowest, i] : order) {
    const Block& b = problem_.blocks[i];
    for (int32_t s = b.begin; s < b.end; ++s) {
      tops[s] = std::max(tops[s], lowest) + b.size;
      if (tops[s] > capacity_) {
        ++failures_[s];
        return false;
      }
    }
  }
  return true;
}

// A valley is a stretch of equal height between higher ones. What lies lowest in one of its slots
// lies either on its floor, and then inside of it, or higher.
ExactSearch::Choice ExactSearch::choose(int32_t begin, int32_t end,
                                        const std::vector<int32_t>& blocks) {
  static thread_local std::vector<int32_t> right_of, counts;  // [slots]: valley's end, 0: no valley
  right_of.assign(size_t(end - begin), 0);
  counts.assign(size_t(end - begin) + 1, 0);
  for (int32_t left = begin, right; left < end; left = right) {
    for (right = left + 1; right < end && floor_[right] == floor_[left];) ++right;
    const bool low = (left == begin || floor_[left - 1] > floor_[left]) &&
                     (right == end || floor_[right] > floor_[left]);
    for (int32_t s = left; s < right && low; ++s) right_of[s - begin] = right;
  }
  for (const int32_t i : blocks) {
    const Block& b = problem_.blocks[i];
    if (b.end > right_of[b.begin - begin]) continue;
    ++counts[b.begin - begin];
    --counts[b.end - begin];
  }
  // The slot with the fewest ways to go on, and of such the one that failed most.
  Choice choice;
  double least = std::numeric_limits<double>::max();
  int32_t open = 0;
  for (int32_t s = begin; s < end; ++s) {
    open += counts[s - begin];
    if (left_[s] == 0 || right_of[s - begin] == 0) continue;
    const bool slack = capacity_ > floor_[s] + left_[s];
    const double ways = (open + (slack ? 1.5 : 0)) / failures_[s];
    if (ways < least) least = ways, choice.slot = s;
  }
  choice.level = floor_[choice.slot];
  choice.right = right_of[choice.slot - begin];
  for (choice.left = choice.slot; choice.left > begin; --choice.left) {
    if (floor_[choice.left - 1] != choice.level) break;
  }
  choice.skip_to = kNever;
  for (const int32_t i : blocks) {
    const Block& b = problem_.blocks[i];
    const bool here = b.begin <= choice.slot && choice.slot < b.end;
    const bool inside = b.begin >= choice.left && b.end <= choice.right;
    if (here && inside) {
      if (twin_[i] < 0 || offsets_[twin_[i]] >= 0) choice.blocks.push_back(i);
    } else if (here) {  // the lowest of the slot after all
      choice.skip_to = std::min(choice.skip_to, lowest_[i]);
    } else if (b.begin < choice.right && b.end > choice.left) {  // or what it lies on
      choice.skip_to = std::min(choice.skip_to, lowest_[i] + b.size);
    }
  }
  rank(choice, begin, end);
  choice.may_skip = choice.skip_to != kNever && choice.skip_to + left_[choice.slot] <= capacity_;
  return choice;
}

// The most promising first: what closes the valley or makes its floor level with a wall leaves less
// to fit later.
void ExactSearch::rank(Choice& choice, int32_t begin, int32_t end) {
  const int64_t left_wall = choice.left > begin ? floor_[choice.left - 1] : capacity_;
  const int64_t right_wall = choice.right < end ? floor_[choice.right] : capacity_;
  std::vector<std::pair<double, int32_t>> ranked;
  for (const int32_t i : choice.blocks) {
    const Block& b = problem_.blocks[i];
    const int64_t top = choice.level + b.size;
    double worth = worth_[i];
    if (b.begin == choice.left) worth *= top == left_wall ? kLevel : kTouch;
    if (b.end == choice.right) worth *= top == right_wall ? kLevel : kTouch;
    ranked.emplace_back(-worth, i);
  }
  std::sort(ranked.begin(), ranked.end());
  for (size_t k = 0; k < ranked.size(); ++k) choice.blocks[k] = ranked[k].second;
}

bool ExactSearch::place(int32_t block, int64_t offset, int32_t begin, int32_t end,
                        const std::vector<int32_t>& blocks) {
  const Block& b = problem_.blocks[block];
  const size_t before = trail_.size();
  for (int32_t s = b.begin; s < b.end; ++s) {
    trail_.push_back({s, floor_[s]});
    floor_[s] = offset + b.size;
    left_[s] -= b.size;
  }
  offsets_[block] = offset;
  std::vector<int32_t> rest;
  rest.reserve(blocks.size());
  for (const int32_t i : blocks) {
    if (i != block) rest.push_back(i);
  }
  if (solve_parts(begin, end, rest)) return true;
  unplace(block);
  undo(before);
  return false;
}

void ExactSearch::unplace(int32_t block) {
  if (offsets_[block] < 0) return;
  const Block& b = problem_.blocks[block];
  for (int32_t s = b.begin; s < b.end; ++s) left_[s] += b.size;
  offsets_[block] = -1;
}

bool ExactSearch::skip(const Choice& choice, int32_t begin, int32_t end,
                       const std::vector<int32_t>& blocks) {
  const size_t before = trail_.size();
  if (raise(choice.slot, choice.skip_to) && solve(begin, end, blocks)) return true;
  undo(before);
  return false;
}

bool ExactSearch::raise(int32_t slot, int64_t to) {
  if (to + left_[slot] > capacity_) {
    ++failures_[slot];
    return false;
  }
  trail_.push_back({slot, floor_[slot]});
  floor_[slot] = to;
  return true;
}

void ExactSearch::undo(size_t changes) {
  for (; trail_.size() > changes; trail_.pop_back()) {
    floor_[trail_.back().slot] = trail_.back().before;
  }
}

ExactSearch::Key ExactSearch::key(int32_t begin, int32_t end,
                                  const std::vector<int32_t>& blocks) const {
  Key key{0, 0};
  for (const int32_t i : blocks) {
    key.a ^= names_[i];
    key.b ^= mixed(names_[i]);
  }
  for (int32_t s = begin; s < end; ++s) {
    if (left_[s] == 0) continue;
    const uint64_t here = mixed(uint64_t(floor_[s]) * 0x9e3779b97f4a7c15u + uint64_t(s));
    key.a = mixed(key.a ^ here);
    key.b = mixed(key.b + here);
  }
  return key;
}

}  // namespace warploom::memory
