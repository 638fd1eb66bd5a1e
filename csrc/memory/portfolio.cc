#include "memory/portfolio.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <numeric>

#include "memory/greedy.h"
#include "memory/groups.h"
#include "memory/skyline.h"

namespace warploom::memory {
namespace {

constexpr int64_t kManyBlocks = 100'000;    // beyond, low times are cut first, nothing is settled
constexpr double kTolerance = 5e-4;         // of the bound, spent on such cuts
constexpr int64_t kMostForExact = 2000;     // blocks
constexpr int64_t kExactRound = 2'000'000;  // work of a round of exact search, about 0.1 s
constexpr int64_t kMostWork = 200;          // a block, beyond which a strategy is given up

struct Strategy {
  const char* name;
  enum Kind { kPlace, kValleys, kGroups } kind;
  Order order;
  Fit fit;
  Prefer prefer;
};

constexpr Strategy placing(const char* name, Order order, Fit fit) {
  return {name, Strategy::kPlace, order, fit, {}};
}

constexpr Strategy valleys(const char* name, Prefer prefer) {
  return {name, Strategy::kValleys, {}, {}, prefer};
}

// What is tried once, in this order.
constexpr Strategy kStrategies[] = {
    valleys("valleys, area", Prefer::area),
    placing("size, best fit", Order::size, Fit::best),
    valleys("valleys, length", Prefer::length),
    placing("load, best fit", Order::load, Fit::best),
    {"groups of phases", Strategy::kGroups, {}, {}, {}},
    valleys("valleys, size", Prefer::size),
    placing("length, best fit", Order::length, Fit::best),
    placing("area, best fit", Order::area, Fit::best),
    placing("size, lowest fit", Order::size, Fit::lowest),
    placing("load, lowest fit", Order::load, Fit::lowest),
    placing("begin, best fit", Order::begin, Fit::best),
};

Offsets run(const Strategy& way, const Problem& problem, int64_t most_work, int64_t& work) {
  switch (way.kind) {
    case Strategy::kPlace:
      return place(problem, ordered(problem, way.order), way.fit, work, most_work);
    case Strategy::kValleys:
      return fill_valleys(problem, way.prefer, 2 * kMostWork * problem.count(), work);
    case Strategy::kGroups:
      return place_groups(problem, work);
  }
  return {};
}

}  // namespace

PartSolver::PartSolver(Part part, uint64_t seed)
    : part_(std::move(part)),
      seed_(seed),
      height_(std::numeric_limits<int64_t>::max() / 4),
      bound_(part_.bound),
      unit_(0) {
  for (const Block& b : part_.problem.blocks) unit_ = std::gcd(unit_, b.size);
  if (!part_.problem.plain) unit_ = 1;
}

const char* PartSolver::round(int64_t goal, int64_t& work) {
  const char* name = nullptr;
  Offsets offsets = attempt(goal, name, work);
  ++rounds_;
  if (offsets.empty()) return nullptr;
  int64_t found = height(part_.problem, offsets);
  if (found >= height_) return nullptr;
  if (found > goal && part_.problem.count() <= kManyBlocks) {
    Offsets fallen = settled(part_.problem, offsets, work);
    const int64_t lower = height(part_.problem, fallen);
    if (lower < found) offsets = std::move(fallen), found = lower;
  }
  best_ = std::move(offsets);
  height_ = found;
  if (height_ <= goal) {  // its memory is of no more use
    for (auto& search : exact_) search.reset();
    local_.reset();
  }
  return name;
}

Offsets PartSolver::attempt(int64_t goal, const char*& name, int64_t& work) {
  const Problem& problem = part_.problem;
  if (size_t(rounds_) < std::size(kStrategies)) {
    // The first that can must go through.
    const int64_t most =
        best_.empty() ? std::numeric_limits<int64_t>::max() : kMostWork * problem.count();
    const Strategy& way = kStrategies[rounds_];
    name = way.name;
    return run(way, problem, most, work);
  }
  const size_t turn = size_t(rounds_) - std::size(kStrategies);
  if (may_search_exactly() && turn % 3 < 2) {
    name = "exact search";
    return search_exactly(turn % 3 == 0, goal, work);
  }
  name = "local search";
  if (!local_) local_ = std::make_unique<LocalSearch>(problem, best_, seed_);
  return local_->round(goal, work);
}

bool PartSolver::may_search_exactly() const {
  return part_.problem.plain && part_.problem.count() <= kMostForExact;
}

// At the least height that would be enough, or half way from it to what is known.
Offsets PartSolver::search_exactly(bool tight, int64_t goal, int64_t& work) {
  const int64_t least = std::max(goal, bound_);
  const int64_t capacity = tight ? least : least + (height_ - least) / 2 / unit_ * unit_;
  std::unique_ptr<ExactSearch>& search = exact_[tight];
  if (!search || exact_capacity_[tight] != capacity) {
    search = std::make_unique<ExactSearch>(part_.problem, capacity, seed_);
    exact_capacity_[tight] = capacity;
  }
  const Verdict verdict = search->run(kExactRound, work);
  if (verdict == Verdict::found) return search->offsets();
  if (verdict == Verdict::none) bound_ = std::max(bound_, (capacity / unit_ + 1) * unit_);
  return {};
}

namespace {

class Planner {
 public:
  Planner(const Problem& problem, const Limits& limits, uint64_t seed)
      : problem_(problem), limits_(limits), seed_(seed), bound_(lower_bound(problem)) {}

  Outcome run() {
    best_.height = std::numeric_limits<int64_t>::max();
    goal_ = std::max(limits_.goal, bound_);
    const bool many = problem_.count() > kManyBlocks;
    solve(cut(problem_, many ? int64_t(kTolerance * double(bound_)) : 0), !many);
    if (many && best_.height > goal_ && !spent()) solve(whole(), true);
    best_.bound = std::min(bound_, best_.height);
    best_.work = work_;
    best_.seconds = seconds();
    return std::move(best_);
  }

 private:
  Parts whole() const {
    std::vector<int32_t> all(problem_.blocks.size());
    std::iota(all.begin(), all.end(), 0);
    Parts parts;
    parts.offsets.assign(all.size(), -1);
    parts.parts.push_back({problem_, std::move(all), 0, bound_});
    return parts;
  }

  // `lossless`: what is proven of a part holds of the whole, and the rounds have no end of their
  // own.
  void solve(Parts parts, bool lossless) {
    best_.parts = std::max(best_.parts, parts.parts.size() + parts.copies.size());
    best_.folded = std::max(best_.folded, parts.copies.size());
    std::vector<PartSolver> solvers;
    for (size_t i = 0; i < parts.parts.size(); ++i) {
      Part part{std::move(parts.parts[i].problem), {}, parts.parts[i].base, parts.parts[i].bound};
      for (size_t c = 0; c < parts.copies.size(); ++c) {  // the copy that lies highest decides
        if (parts.like[c] == i) part.base = std::max(part.base, parts.copies[c].base);
      }
      solvers.emplace_back(std::move(part), mixed(seed_ + i));
    }
    std::string last = "whole";
    for (PartSolver& solver : solvers) {
      while (solver.offsets().empty()) {
        if (const char* name = advance(solver)) last = name;
      }
    }
    report(parts, solvers, last);
    const int most = lossless ? std::numeric_limits<int>::max() : int(std::size(kStrategies));
    for (int rounds = 0; best_.height > goal_ && !solvers.empty() && rounds < most; ++rounds) {
      const auto highest = std::max_element(
          solvers.begin(), solvers.end(),
          [](const PartSolver& a, const PartSolver& b) { return a.top() < b.top(); });
      if (spent() || (highest->finished() && highest->top() >= best_.height)) break;
      if (const char* name = advance(*highest)) report(parts, solvers, name);
      if (lossless && highest->proven() > bound_) {
        bound_ = highest->proven();
        goal_ = std::max(goal_, bound_);
      }
    }
  }

  const char* advance(PartSolver& solver) {
    return solver.round(std::max(goal_ - solver.part().base, solver.part().bound), work_);
  }

  // Keeps the plan that the parts make now, if it is better.
  void report(const Parts& parts, const std::vector<PartSolver>& solvers,
              const std::string& strategy) {
    Offsets offsets = parts.offsets;
    const auto lay = [&](const std::vector<int32_t>& blocks, int64_t base, const Offsets& inner) {
      for (size_t i = 0; i < blocks.size(); ++i) offsets[blocks[i]] = base + inner[i];
    };
    for (size_t i = 0; i < solvers.size(); ++i) {
      lay(parts.parts[i].blocks, parts.parts[i].base, solvers[i].offsets());
    }
    for (size_t c = 0; c < parts.copies.size(); ++c) {
      lay(parts.copies[c].blocks, parts.copies[c].base, solvers[parts.like[c]].offsets());
    }
    const int64_t found = height(problem_, offsets);
    if (found >= best_.height) return;
    best_.height = found;
    best_.offsets = std::move(offsets);
    best_.history.push_back({seconds(), work_, found, strategy});
  }

  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

  bool spent() const {
    return (limits_.work > 0 && work_ >= limits_.work) ||
           (limits_.seconds > 0 && seconds() >= limits_.seconds);
  }

  const Problem& problem_;
  const Limits limits_;
  const uint64_t seed_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  int64_t bound_;
  int64_t goal_ = 0;
  int64_t work_ = 0;
  Outcome best_{};
};

}  // namespace

Outcome plan(const Problem& problem, const Limits& limits, uint64_t seed) {
  return Planner(problem, limits, seed).run();
}

}  // namespace warploom::memory
