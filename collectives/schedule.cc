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

void Schedule::check_range() const {
  const auto check = [this](const Rounds& list, const char* name) {
    for (int64_t t = 0; t < list.size(); ++t) {
      for (const auto& [source, target, chunk] : list[t]) {
        if (source < 0 || source >= ranks || target < 0 || target >= ranks || source == target) {
          invalid(name, " ", t, ": a transfer from rank ", source, " to rank ", target, " among ",
                  ranks);
        }
        if (chunk < 0 || chunk >= chunks()) {
          invalid(name, " ", t, ": rank ", source, " sends chunk ", chunk, " of ", chunks());
        }
      }
    }
  };
  check(rounds, "round");
  check(reduction, "reduction round");
}

Rounds Rounds::from(int64_t rounds, const int64_t* ends, const wl_transfer* transfers) {
  if (rounds < 0) invalid("rounds is ", rounds, ": must be at least 0");
  if (rounds && !ends) invalid("ends is NULL");
  if (rounds && ends[rounds - 1] > 0 && !transfers) invalid("transfers is NULL");
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
