#include "memory/parts.h"

#include <algorithm>
#include <numeric>
#include <unordered_map>

#include "memory/greedy.h"
#include "memory/random.h"

namespace warploom::memory {
namespace {

constexpr int64_t kMostVisits = 40;  // of a block, on average, until what is left stays whole

struct Piece {
  std::vector<int32_t> blocks;
  int64_t base;
};

// What is held from the slot before to each slot on, in blocks and in bytes.
struct Crossing {
  explicit Crossing(const Problem& problem)
      : blocks(size_t(problem.slots) + 1), bytes(size_t(problem.slots) + 1) {
    for (const Block& b : problem.blocks) {
      ++blocks[b.begin + 1], --blocks[b.end];
      bytes[b.begin + 1] += b.size, bytes[b.end] -= b.size;
    }
    std::partial_sum(blocks.begin(), blocks.end(), blocks.begin());
    std::partial_sum(bytes.begin(), bytes.end(), bytes.begin());
  }
  std::vector<int64_t> blocks, bytes;
};

class Cutter {
 public:
  Cutter(const Problem& whole, int64_t tolerance)
      : whole_(whole), tolerance_(tolerance), visits_left_(kMostVisits * whole.count()) {
    result_.offsets.assign(whole.blocks.size(), -1);
  }

  Parts run() {
    std::vector<int32_t> all(whole_.blocks.size());
    std::iota(all.begin(), all.end(), 0);
    if (!all.empty()) open_.push_back({std::move(all), 0});
    while (!open_.empty()) {
      Piece piece = std::move(open_.back());
      open_.pop_back();
      visits_left_ -= int64_t(piece.blocks.size());
      take(std::move(piece));
    }
    return std::move(result_);
  }

 private:
  void take(Piece piece) {
    Problem problem = subproblem(whole_, piece.blocks);
    const Crossing crossing(problem);
    std::vector<int32_t> cuts;
    for (int32_t s = 1; s < problem.slots; ++s) {
      if (crossing.blocks[s] == 0) cuts.push_back(s);
    }
    if (!cuts.empty()) return split(problem, piece, cuts);
    if (visits_left_ > 0 && whole_.plain && (peel(problem, piece) || cut_low(problem, piece))) {
      return;
    }
    keep(std::move(problem), std::move(piece));
  }

  void split(const Problem& problem, const Piece& piece, const std::vector<int32_t>& cuts) {
    std::vector<std::vector<int32_t>> between(cuts.size() + 1);
    for (size_t i = 0; i < piece.blocks.size(); ++i) {
      const auto after = std::upper_bound(cuts.begin(), cuts.end(), problem.blocks[i].begin);
      between[size_t(after - cuts.begin())].push_back(piece.blocks[i]);
    }
    for (auto& blocks : between) {
      if (!blocks.empty()) open_.push_back({std::move(blocks), piece.base});
    }
  }

  // Lays what is held throughout at the bottom.
  bool peel(const Problem& problem, const Piece& piece) {
    Piece rest{{}, piece.base};
    for (size_t i = 0; i < piece.blocks.size(); ++i) {
      const Block& b = problem.blocks[i];
      if (b.length() < problem.slots) {
        rest.blocks.push_back(piece.blocks[i]);
        continue;
      }
      result_.offsets[piece.blocks[i]] = rest.base;
      rest.base += b.size;
    }
    if (rest.blocks.size() == piece.blocks.size()) return false;
    if (!rest.blocks.empty()) open_.push_back(std::move(rest));
    return true;
  }

  // Cuts at the lowest times, if what crosses them packs into the tolerance.
  bool cut_low(const Problem& problem, const Piece& piece) {
    if (tolerance_ <= 0) return false;
    const Crossing crossing(problem);
    std::vector<int32_t> cuts;
    int32_t lowest = -1;  // of the stretch of low times that is being passed
    for (int32_t s = 1; s <= problem.slots; ++s) {
      const bool low = s < problem.slots && crossing.bytes[s] <= tolerance_;
      if (low && (lowest < 0 || crossing.bytes[s] < crossing.bytes[lowest])) lowest = s;
      if (!low && lowest >= 0) cuts.push_back(lowest), lowest = -1;
    }
    if (cuts.empty()) return false;
    std::vector<int32_t> across;
    Piece rest{{}, piece.base};
    for (size_t i = 0; i < piece.blocks.size(); ++i) {
      const Block& b = problem.blocks[i];
      const auto next = std::upper_bound(cuts.begin(), cuts.end(), b.begin);
      const bool crosses = next != cuts.end() && *next < b.end;
      (crosses ? across : rest.blocks).push_back(piece.blocks[i]);
    }
    const Problem bottom = subproblem(whole_, across);
    int64_t work = 0;
    const Offsets offsets = place(bottom, ordered(bottom, Order::size), Fit::best, work);
    const int64_t top = height(bottom, offsets);
    if (top > tolerance_) return false;
    tolerance_ -= top;  // all of it is spent once
    for (size_t i = 0; i < across.size(); ++i) result_.offsets[across[i]] = piece.base + offsets[i];
    rest.base += top;
    if (!rest.blocks.empty()) open_.push_back(std::move(rest));
    return true;
  }

  void keep(Problem problem, Piece piece) {
    uint64_t name = uint64_t(problem.slots);
    for (const Block& b : problem.blocks) {
      for (const int64_t value : {b.size, int64_t(b.begin), int64_t(b.end), b.fixed}) {
        name = mixed(name + uint64_t(value)) * 0x9e3779b97f4a7c15u;
      }
    }
    for (auto [at, last] = seen_.equal_range(name); at != last; ++at) {
      Part& known = result_.parts[at->second];
      if (!alike(known.problem, problem)) continue;
      result_.like.push_back(at->second);
      result_.copies.push_back({{}, std::move(piece.blocks), piece.base, known.bound});
      return;
    }
    seen_.emplace(name, result_.parts.size());
    const int64_t bound = lower_bound(problem);
    result_.parts.push_back({std::move(problem), std::move(piece.blocks), piece.base, bound});
  }

  static bool alike(const Problem& a, const Problem& b) {
    return std::equal(a.blocks.begin(), a.blocks.end(), b.blocks.begin(), b.blocks.end(),
                      [](const Block& x, const Block& y) {
                        return x.size == y.size && x.begin == y.begin && x.end == y.end &&
                               x.alignment == y.alignment && x.fixed == y.fixed;
                      });
  }

  const Problem& whole_;
  int64_t tolerance_;
  int64_t visits_left_;
  std::vector<Piece> open_;
  std::unordered_multimap<uint64_t, size_t> seen_;
  Parts result_;
};

}  // namespace

Parts cut(const Problem& whole, int64_t tolerance) { return Cutter(whole, tolerance).run(); }

}  // namespace warploom::memory
