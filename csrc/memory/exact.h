// Exact search: is there a plan of a given height? For hundreds of blocks.
#pragma once

#include <cstdint>
#include <unordered_set>
#include <vector>

#include "memory/problem.h"
#include "memory/random.h"

namespace warploom::memory {

enum class Verdict { found, none, unknown };

// Depth-first over skylines. In the valleys of the skyline that slot is chosen in which the fewest
// blocks could lie next: either one of them does, or so much of the slot stays empty. What prunes:
// a slot whose blocks to come pass the capacity, however they lie; the skyline raised where nothing
// can fill it; stretches of time that no block to come joins, solved apart; states that have failed
// before. Restarts with other orders keep what failed, and where.
class ExactSearch {
 public:
  // The problem is `plain` and outlives the search.
  ExactSearch(const Problem& problem, int64_t capacity, uint64_t seed);

  // Goes on for about so much work; `found`: offsets() holds a plan; `none`: there is no such plan.
  Verdict run(int64_t most_work, int64_t& work);

  const Offsets& offsets() const { return offsets_; }

 private:
  struct Change {  // of the skyline, to be taken back
    int32_t slot;
    int64_t before;
  };
  struct Choice {
    int32_t slot = -1;
    int32_t left = 0, right = 0;  // its valley
    int64_t level = 0;
    bool may_skip = false;
    int64_t skip_to = 0;
    std::vector<int32_t> blocks;
  };
  struct Key {
    uint64_t a, b;
    bool operator==(const Key&) const = default;
  };
  struct HashKey {
    size_t operator()(const Key& key) const { return size_t(key.a); }
  };

  bool solve(int32_t begin, int32_t end, const std::vector<int32_t>& blocks);
  bool solve_parts(int32_t begin, int32_t end, const std::vector<int32_t>& blocks);
  bool propagate(const std::vector<int32_t>& blocks);
  bool fits(const std::vector<int32_t>& blocks);
  Choice choose(int32_t begin, int32_t end, const std::vector<int32_t>& blocks);
  bool place(int32_t block, int64_t offset, int32_t begin, int32_t end,
             const std::vector<int32_t>& blocks);
  bool skip(const Choice& choice, int32_t begin, int32_t end, const std::vector<int32_t>& blocks);
  void unplace(int32_t block);
  bool raise(int32_t slot, int64_t to);
  void rank(Choice& choice, int32_t begin, int32_t end);
  void undo(size_t changes);
  Key key(int32_t begin, int32_t end, const std::vector<int32_t>& blocks) const;

  const Problem& problem_;
  const int64_t capacity_;
  Random random_;
  Offsets offsets_;
  std::vector<int64_t> floor_, left_, lowest_;  // [slots] height, bytes to come; [blocks] offset
  std::vector<double> failures_;                // [slots] that had no room, and 1
  std::vector<uint64_t> names_;                 // [blocks] random
  std::vector<double> worth_;                   // [blocks] order of this restart
  std::vector<int32_t> twin_;                   // [blocks] the equal block before it, or -1
  std::vector<Change> trail_;
  std::unordered_set<Key, HashKey> failed_;
  int64_t nodes_ = 0, limit_ = 0, most_nodes_ = 0;
  int64_t spent_ = 0, most_work_ = 0;
  int restarts_ = 0;
  bool stopped_ = false;
};

}  // namespace warploom::memory
