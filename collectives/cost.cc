#include "collectives/cost.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "collectives/bounds.h"
#include "collectives/error.h"

namespace warploom::collectives {
namespace {

// The chunks on which each rank computes, by the step in which it does. With heads there is nothing
// to compute before the slices of the own group have come, so a rank's own chunk waits for step 1.
class Work {
 public:
  explicit Work(const Schedule& s) : s_(s), total_(s.ranks), step_(s.ranks) {
    for (int rank = 0; rank < s.ranks; ++rank) {
      total_[rank] = s.moves == WL_MOVES_HEADS ? s.ranks : s.chunks();
    }
  }

  // The largest share of its work that a rank does in a step, times how much work that is.
  double share(int64_t step, const wl_pass& pass) {
    const bool heads = s_.moves == WL_MOVES_HEADS;
    std::fill(step_.begin(), step_.end(), step != (heads ? 1 : 0) ? 0 : heads ? 1 : s_.parts);
    if (step > 0 && step <= s_.rounds.size()) {
      for (const wl_transfer& transfer : s_.rounds[step - 1]) ++step_[transfer.target];
    }
    double most = 0;
    for (int rank = 0; rank < s_.ranks; ++rank) {
      const double weight = heads && pass.shares ? pass.shares[rank % s_.parts] * s_.parts : 1;
      most = std::max(most, weight * step_[rank] / total_[rank]);
    }
    return most;
  }

 private:
  const Schedule& s_;
  std::vector<int> total_, step_;
};

// What goes on in one step.
class Step {
 public:
  explicit Step(const Topology& topology)
      : topology_(topology),
        bytes_(topology.resources().size()),
        sent_(topology.ranks()),
        received_(topology.ranks()) {}

  void clear() {
    std::fill(bytes_.begin(), bytes_.end(), 0);
    std::fill(sent_.begin(), sent_.end(), 0);
    std::fill(received_.begin(), received_.end(), 0);
    latency_ = 0;
    any_ = false;
  }

  void add(const wl_transfer& transfer, double bytes) {
    const Path& path = topology_.path(transfer.source, transfer.target);
    if (!path.linked()) {
      invalid("rank ", transfer.source, " sends to rank ", transfer.target,
              " without a link in the topology (", topology_.name(), ")");
    }
    for (const int32_t resource : path) bytes_[resource] += bytes;
    ++sent_[transfer.source];
    ++received_[transfer.target];
    latency_ = std::max(latency_, path.latency);
    any_ = true;
  }

  bool any() const { return any_; }
  double latency() const { return latency_; }
  const std::vector<double>& bytes() const { return bytes_; }

  int messages() const {
    return std::max(*std::max_element(sent_.begin(), sent_.end()),
                    *std::max_element(received_.begin(), received_.end()));
  }

  double wire() const {
    double longest = 0;
    for (size_t r = 0; r < bytes_.size(); ++r) {
      longest = std::max(longest, bytes_[r] / topology_.resources()[r].bandwidth);
    }
    return longest;
  }

 private:
  const Topology& topology_;
  std::vector<double> bytes_;
  std::vector<int> sent_, received_;
  double latency_ = 0;
  bool any_ = false;
};

// Calls with each step's number and transfers. Without results nothing comes home.
template <class Call>
void for_steps(const Topology& topology, const Schedule& s, const wl_pass& pass, const Call& call) {
  const int64_t home = pass.home_bytes > 0 ? s.reduction.size() : 0;
  Step step(topology);
  for (int64_t t = 0; t < std::max(s.rounds.size() + 1, home); ++t) {
    step.clear();
    if (t < s.rounds.size()) {
      for (const auto& transfer : s.rounds[t]) step.add(transfer, out_bytes(s, pass, transfer));
    }
    if (t < home) {
      for (const auto& transfer : s.reduction[t]) step.add(transfer, home_bytes(s, pass, transfer));
    }
    call(t, step);
  }
}

double share_of(const Schedule& s, const wl_pass& pass, int chunk) {
  return pass.shares ? pass.shares[s.part(chunk)] : 1.0 / s.parts;
}

}  // namespace

void check_pass(const Schedule& s, const wl_pass& p) {
  const auto check = [](const char* name, double value) {
    if (!(value >= 0) || std::isinf(value)) {
      invalid(name, " is ", value, ": must be a finite number from 0");
    }
  };
  check("out_bytes", p.out_bytes);
  check("relay_bytes", p.relay_bytes);
  check("home_bytes", p.home_bytes);
  check("compute_seconds", p.compute_seconds);
  for (int part = 0; p.shares && part < s.parts; ++part) check("shares", p.shares[part]);
}

double out_bytes(const Schedule& s, const wl_pass& pass, const wl_transfer& transfer) {
  const bool answers = s.contributes(transfer.target, transfer.chunk);
  return (answers ? pass.out_bytes : pass.relay_bytes) * share_of(s, pass, transfer.chunk);
}

double home_bytes(const Schedule& s, const wl_pass& pass, const wl_transfer& transfer) {
  return pass.home_bytes * share_of(s, pass, transfer.chunk);
}

std::vector<double> loads(const Topology& topology, const Schedule& s, const wl_pass& pass) {
  std::vector<double> total(topology.resources().size());
  for_steps(topology, s, pass, [&](int64_t, const Step& step) {
    for (size_t r = 0; r < total.size(); ++r) total[r] += step.bytes()[r];
  });
  return total;
}

wl_cost cost(const Topology& topology, const Schedule& s, const wl_pass& pass) {
  wl_cost result{};
  result.struct_size = sizeof result;
  Work work(s);
  for_steps(topology, s, pass, [&](int64_t t, const Step& step) {
    double communication = 0;
    if (step.any()) {
      const double wire = step.wire();
      const int messages = step.messages();
      communication = step.latency() + messages * topology.overhead() + wire;
      result.wire_seconds += wire;
      result.messages += messages;
      ++result.steps;
    }
    const double compute = work.share(t, pass) * pass.compute_seconds;
    result.communication_seconds += communication;
    result.compute_seconds += compute;
    result.seconds += std::max(communication, compute);
  });
  result.exposed_seconds = result.seconds - result.compute_seconds;
  const std::vector<double> bytes = loads(topology, s, pass);
  for (size_t r = 0; r < bytes.size(); ++r) {
    result.busiest_seconds =
        std::max(result.busiest_seconds, bytes[r] / topology.resources()[r].bandwidth);
  }
  const Bound bound = lower_bound(topology, s, pass);
  result.bound_seconds = bound.seconds;
  std::strncpy(result.bound, bound.reason.c_str(), sizeof result.bound - 1);
  return result;
}

}  // namespace warploom::collectives
