#include "collectives/schedule.h"

#include "collectives/error.h"

namespace warploom::collectives {

void Rounds::put(int64_t round, int source, int target, int chunk) {
  if (round >= int64_t(open_.size())) open_.resize(round + 1);
  open_[round].push_back({source, target, chunk});
}

void Rounds::seal() {
  for (std::vector<wl_transfer>& round : open_) {
    transfers_.insert(transfers_.end(), round.begin(), round.end());
    ends_.push_back(int64_t(transfers_.size()));
    round = {};
  }
  open_.clear();
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

Rounds Rounds::sealed(int64_t rounds, const int64_t* ends, const wl_transfer* transfers) {
  if (rounds < 0) invalid("rounds is ", rounds, ": must be at least 0");
  if (rounds && !ends) invalid("ends is NULL");
  for (int64_t round = 0; round < rounds; ++round) {
    const int64_t begin = round ? ends[round - 1] : 0;
    if (ends[round] < begin) {
      invalid("ends[", round, "] is ", ends[round], ": must be at least ", begin);
    }
  }
  const int64_t count = rounds ? ends[rounds - 1] : 0;
  if (count && !transfers) invalid("transfers is NULL");
  Rounds result;
  result.ends_.assign(ends, ends + rounds);
  result.transfers_.assign(transfers, transfers + count);
  return result;
}

}  // namespace warploom::collectives
