#include "collectives/schedule.h"

#include "collectives/error.h"

namespace warploom::collectives {

void Rounds::put(int64_t round, int source, int target, int chunk) {
  if (round >= size()) rounds_.resize(round + 1);
  rounds_[round].push_back({source, target, chunk});
}

void Rounds::flatten(std::vector<int64_t>& ends, std::vector<wl_transfer>& transfers) const {
  for (const auto& round : rounds_) {
    transfers.insert(transfers.end(), round.begin(), round.end());
    ends.push_back(int64_t(transfers.size()));
  }
}

Rounds Rounds::from(int64_t rounds, const int64_t* ends, const wl_transfer* transfers) {
  Rounds result;
  int64_t begin = 0;
  for (int64_t round = 0; round < rounds; ++round) {
    if (ends[round] < begin) {
      invalid("ends[", round, "] is ", ends[round], ": must be at least ", begin);
    }
    result.rounds_.emplace_back(transfers + begin, transfers + ends[round]);
    begin = ends[round];
  }
  return result;
}

}  // namespace warploom::collectives
