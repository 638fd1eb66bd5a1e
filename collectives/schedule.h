// The form of a schedule, as warploom/collectives.h describes it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "warploom/collectives.h"

namespace warploom::collectives {

// Rounds of transfers. Generators put them in, in any order of rounds; sealed, they are one array,
// as the C interface shows them, and can be read.
class Rounds {
 public:
  void put(int64_t round, int source, int target, int chunk);
  void seal();
  static Rounds sealed(int64_t rounds, const int64_t* ends, const wl_transfer* transfers);

  int64_t size() const { return int64_t(ends_.size()); }
  std::span<const wl_transfer> operator[](int64_t round) const {
    const int64_t begin = round ? ends_[round - 1] : 0;
    return {transfers_.data() + begin, size_t(ends_[round] - begin)};
  }
  const int64_t* ends() const { return ends_.data(); }
  const wl_transfer* transfers() const { return transfers_.data(); }

 private:
  std::vector<std::vector<wl_transfer>> open_;
  std::vector<int64_t> ends_;
  std::vector<wl_transfer> transfers_;
};

struct Schedule {
  std::string kind, note;
  wl_moves moves = WL_MOVES_KV;
  int ranks = 0, parts = 0;
  Rounds rounds, reduction;

  int chunks() const { return ranks * parts; }
  int owner(int chunk) const { return chunk / parts; }
  int part(int chunk) const { return chunk % parts; }

  // Throws unless every transfer is of ranks and chunks that there are.
  void check_range() const;

  // Must this rank get the chunk, which is not its own?
  bool reads(int rank, int chunk) const {
    if (rank == owner(chunk)) return false;
    return moves != WL_MOVES_HEADS || rank % parts == part(chunk);
  }
  // Does this rank compute something that the chunk's owner waits for? With heads, keys and values
  // go on to other groups, but only the own group's rank answers the queries.
  bool contributes(int rank, int chunk) const {
    return reads(rank, chunk) && (moves != WL_MOVES_HEADS || rank / parts == owner(chunk) / parts);
  }
};

}  // namespace warploom::collectives
