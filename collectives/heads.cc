// Heads exchanged for sequence: inside groups of neighbouring ranks each rank gets one slice of the
// heads for the whole group's sequence. Between groups, keys and values of that slice go round.
#include "collectives/error.h"
#include "collectives/generators.h"

namespace warploom::collectives {
namespace {

Schedule exchange_heads(const Topology& topology, int group, const char* kind) {
  const int n = topology.ranks(), groups = n / group;
  Schedule s{kind, "", WL_MOVES_HEADS, n, group, {}, {}};
  const auto rank = [&](int g, int place) { return (g % groups) * group + place; };
  // Where each pair of ranks has its own link, the chunks of a group cross it one after another.
  const int64_t stride = topology.exclusive() ? group : 1;
  const int64_t last = 1 + (groups - 1) * stride;  // rounds
  for (int owner = 0; owner < n; ++owner) {
    const int own_group = owner / group, place = owner % group;
    for (int part = 0; part < group; ++part) {
      const int chunk = owner * group + part, reader = rank(own_group, part);
      if (reader != owner) {
        topology.need_link(owner, reader, kind);
        s.rounds.put(0, owner, reader, chunk);
        s.reduction.put(last + 1, reader, owner, chunk);
      }
      for (int hop = 1; hop < groups; ++hop) {
        const int source = rank(own_group + hop - 1, part), target = rank(own_group + hop, part);
        topology.need_link(source, target, kind);
        s.rounds.put(1 + (hop - 1) * stride + place % stride, source, target, chunk);
      }
    }
  }
  return s;
}

}  // namespace

Schedule ulysses(const Topology& topology) {
  return exchange_heads(topology, topology.ranks(), "ulysses");
}

Schedule hybrid(const Topology& topology, int group) {
  const int n = topology.ranks();
  if (group < 2 || group >= n || n % group != 0) {
    invalid("group is ", group, ": must be at least 2, less than the ", n,
            " ranks, and divide them");
  }
  return exchange_heads(topology, group, "hybrid");
}

}  // namespace warploom::collectives
