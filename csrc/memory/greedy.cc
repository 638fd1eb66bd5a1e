#include "memory/greedy.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <tuple>

namespace warploom::memory {
namespace {

// The most bytes held in any slot of each block's life.
std::vector<int64_t> loads_of_blocks(const Problem& problem) {
  std::vector<std::vector<int64_t>> levels{load(problem)};  // maxima over 1, 2, 4, ... slots
  for (size_t width = 1; 2 * width <= levels[0].size(); width *= 2) {
    const std::vector<int64_t>& below = levels.back();
    std::vector<int64_t> next(below.size() - width);
    for (size_t i = 0; i < next.size(); ++i) next[i] = std::max(below[i], below[i + width]);
    levels.push_back(std::move(next));
  }
  std::vector<int64_t> result;
  result.reserve(problem.blocks.size());
  for (const Block& block : problem.blocks) {
    const int level = std::bit_width(uint32_t(block.length())) - 1;
    const std::vector<int64_t>& row = levels[level];
    result.push_back(std::max(row[block.begin], row[block.end - (1 << level)]));
  }
  return result;
}

}  // namespace

std::vector<int32_t> ordered(const Problem& problem, Order order) {
  const std::vector<int64_t> loads =
      order == Order::load ? loads_of_blocks(problem) : std::vector<int64_t>{};
  using Key = std::tuple<double, double, double, int32_t>;
  std::vector<std::pair<Key, int32_t>> keys;
  keys.reserve(problem.blocks.size());
  for (int32_t i = 0; i < problem.count(); ++i) {
    const Block& b = problem.blocks[i];
    const double size = double(b.size), length = b.length();
    Key key;
    switch (order) {
      case Order::size:
        key = {-size, -length, 0, b.begin};
        break;
      case Order::length:
        key = {-length, -size, 0, b.begin};
        break;
      case Order::area:
        key = {-b.area(), -size, 0, b.begin};
        break;
      case Order::load:
        key = {-double(loads[i]), -size, -length, b.begin};
        break;
      case Order::begin:
        key = {b.begin, -length, -size, 0};
        break;
    }
    keys.emplace_back(key, i);
  }
  std::sort(keys.begin(), keys.end());
  std::vector<int32_t> result;
  result.reserve(keys.size());
  for (const auto& [key, i] : keys) result.push_back(i);
  return result;
}

Offsets place(const Problem& problem, const std::vector<int32_t>& order, Fit fit, int64_t& work,
              int64_t most_work) {
  Offsets offsets(problem.blocks.size(), -1);
  Occupied occupied(problem.slots);
  const auto put = [&](int32_t i, int64_t offset) {
    const Block& block = problem.blocks[i];
    offsets[i] = offset;
    occupied.add(block.begin, block.end, {offset, offset + block.size});
  };
  if (!problem.plain) {
    for (int32_t i = 0; i < problem.count(); ++i) {
      if (problem.blocks[i].fixed >= 0) put(i, problem.blocks[i].fixed);
    }
  }
  const int64_t start = work;
  for (const int32_t i : order) {
    if (offsets[i] >= 0) continue;
    if (work - start > most_work) return {};
    const Block& block = problem.blocks[i];
    const std::vector<Range>& taken = occupied.taken(block.begin, block.end);
    work += 8 + occupied.looked_at();
    put(i, fitting_offset(taken, block.size, block.alignment, fit));
  }
  return offsets;
}

Offsets settled(const Problem& problem, const Offsets& offsets, int64_t& work) {
  std::vector<int32_t> order(problem.blocks.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return std::pair(offsets[a], a) < std::pair(offsets[b], b);
  });
  return place(problem, order, Fit::lowest, work);
}

}  // namespace warploom::memory
