#include "collectives/verify.h"

#include <vector>

#include "collectives/error.h"

namespace warploom::collectives {
namespace {

constexpr int64_t kNever = INT64_MAX;

class Verifier {
 public:
  Verifier(const Topology& topology, const Schedule& schedule)
      : topology_(topology), s_(schedule), n_(schedule.ranks) {}

  void run() {
    if (n_ != topology_.ranks()) {
      invalid("the schedule is for ", n_, " ranks: the topology has ", topology_.ranks());
    }
    s_.check_range();
    links_are_free(s_.rounds, "round");
    links_are_free(s_.reduction, "reduction round");
    chunks_arrive();
    contributions_come_home();
  }

 private:
  std::string chunk_name(int chunk) const {
    return say("chunk ", chunk, " (owner ", s_.owner(chunk), ", part ", s_.part(chunk), ")");
  }

  std::string step(const char* name, int64_t t, const wl_transfer& transfer) const {
    return say(name, " ", t, ": rank ", transfer.source, " sends ", chunk_name(transfer.chunk),
               " to rank ", transfer.target);
  }

  // For messages: the first round from `t` on that brings the chunk.
  int64_t later_arrival(int rank, int chunk, int64_t t) const {
    for (; t < s_.rounds.size(); ++t) {
      for (const wl_transfer& transfer : s_.rounds[t]) {
        if (transfer.target == rank && transfer.chunk == chunk) return t;
      }
    }
    return kNever;
  }

  static std::string arrives(int64_t round) {
    return round == kNever ? "never reaches it" : say("reaches it in round ", round);
  }

  void links_are_free(const Rounds& rounds, const char* name) const {
    std::vector<int64_t> last_use(size_t(n_) * n_, -1);
    for (int64_t t = 0; t < rounds.size(); ++t) {
      for (const auto& [source, target, chunk] : rounds[t]) {
        if (!topology_.path(source, target).linked()) {
          invalid(name, " ", t, ": ", "rank ", source, " sends ", chunk_name(chunk), " to rank ",
                  target, ", without a link in the topology (", topology_.name(), ")");
        }
        int64_t& last = last_use[size_t(source) * n_ + target];
        if (topology_.exclusive() && last == t) {
          invalid(name, " ", t, ": ", "the link from rank ", source, " to rank ", target,
                  " is used twice, the second time for ", chunk_name(chunk));
        }
        last = t;
      }
    }
  }

  void chunks_arrive() {
    arrival_.assign(size_t(n_) * s_.chunks(), kNever);
    for (int chunk = 0; chunk < s_.chunks(); ++chunk) arrival(s_.owner(chunk), chunk) = -1;
    for (int64_t t = 0; t < s_.rounds.size(); ++t) {
      for (const wl_transfer& transfer : s_.rounds[t]) {
        const auto& [source, target, chunk] = transfer;
        if (arrival(source, chunk) == kNever) {
          invalid(step("round", t, transfer), " before it has it: the chunk ",
                  arrives(later_arrival(source, chunk, t)));
        }
        if (target == s_.owner(chunk)) invalid(step("round", t, transfer), ", its owner");
        if (!s_.reads(target, chunk)) {
          invalid(step("round", t, transfer), ", which has no use for it");
        }
      }
      for (const wl_transfer& transfer : s_.rounds[t]) {
        const auto& [source, target, chunk] = transfer;
        if (arrival(target, chunk) != kNever) {
          invalid(step("round", t, transfer), ", which has had it since round ",
                  arrival(target, chunk));
        }
        arrival(target, chunk) = t;
      }
    }
    for (int chunk = 0; chunk < s_.chunks(); ++chunk) {
      for (int rank = 0; rank < n_; ++rank) {
        if (s_.reads(rank, chunk) && arrival(rank, chunk) == kNever) {
          invalid("after the last round (", s_.rounds.size() - 1, "): ", chunk_name(chunk),
                  " has not reached rank ", rank);
        }
      }
    }
  }

  // How many contributions to each chunk each rank holds: at first its own. A transfer takes all of
  // them along, and what arrives in a round leaves in a later one.
  void contributions_come_home() {
    std::vector<int32_t> held(size_t(n_) * s_.chunks());
    std::vector<char> sent(held.size());
    const auto place = [&](int rank, int chunk) { return size_t(rank) * s_.chunks() + chunk; };
    for (int chunk = 0; chunk < s_.chunks(); ++chunk) {
      for (int rank = 0; rank < n_; ++rank) held[place(rank, chunk)] = s_.contributes(rank, chunk);
    }
    std::vector<int32_t> moved;
    for (int64_t t = 0; t < s_.reduction.size(); ++t) {
      moved.clear();
      for (const auto& transfer : s_.reduction[t]) {
        const auto& [source, target, chunk] = transfer;
        const size_t from = place(source, chunk);
        if (source == s_.owner(chunk))
          invalid(step("reduction round", t, transfer), ", but is its owner");
        if (held[from] == 0) {
          invalid(step("reduction round", t, transfer),
                  ", but holds no contribution to it (any more)");
        }
        const bool own = s_.contributes(source, chunk) && !sent[from];
        if (own) check_computed(transfer, t);
        sent[from] = 1;
        moved.push_back(held[from]);
        held[from] = 0;
      }
      for (size_t i = 0; i < moved.size(); ++i) {
        held[place(s_.reduction[t][i].target, s_.reduction[t][i].chunk)] += moved[i];
      }
    }
    for (int chunk = 0; chunk < s_.chunks(); ++chunk) {
      for (int rank = 0; rank < n_; ++rank) {
        if (rank != s_.owner(chunk) && held[place(rank, chunk)] > 0) {
          invalid("after the last reduction round (", s_.reduction.size() - 1,
                  "): ", held[place(rank, chunk)], " of the contributions to ", chunk_name(chunk),
                  " are at rank ", rank, ", not at its owner");
        }
      }
    }
  }

  // A rank's contribution leaves two rounds after what it was computed from arrived: the chunk, and
  // with heads all keys and values of the rank's slice.
  void check_computed(const wl_transfer& transfer, int64_t t) {
    const int rank = transfer.source;
    const auto check = [&](int chunk) {
      if (arrival(rank, chunk) + 2 <= t) return;
      invalid(step("reduction round", t, transfer), " before it could compute it: it needs ",
              chunk_name(chunk), ", which ", arrives(arrival(rank, chunk)), ", two rounds earlier");
    };
    if (s_.moves != WL_MOVES_HEADS) return check(transfer.chunk);
    for (int chunk = s_.part(transfer.chunk); chunk < s_.chunks(); chunk += s_.parts) check(chunk);
  }

  int64_t& arrival(int rank, int chunk) { return arrival_[size_t(rank) * s_.chunks() + chunk]; }

  const Topology& topology_;
  const Schedule& s_;
  int n_;
  std::vector<int64_t> arrival_;  // round; -1: from the start; kNever
};

}  // namespace

void verify(const Topology& topology, const Schedule& schedule) {
  Verifier(topology, schedule).run();
}

}  // namespace warploom::collectives
