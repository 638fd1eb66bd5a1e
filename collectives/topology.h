// Which ranks can send to which, over what, and how fast.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "warploom/collectives.h"

namespace warploom::collectives {

// Something that transfers take up: a link between two ranks, a port, a network card, a bus.
struct Resource {
  enum Kind { link, port_out, port_in, nic_out, nic_in, bus };
  Kind kind;
  int32_t first, second;  // link: source, target; port: rank; nic: node, number
  double bandwidth;       // bytes per second

  std::string name() const;
};

// What a transfer between a pair of ranks takes up; none: the pair is not linked.
struct Path {
  std::array<int32_t, 2> resources;
  int32_t count = 0;
  double latency = 0;

  bool linked() const { return count > 0; }
  const int32_t* begin() const { return resources.data(); }
  const int32_t* end() const { return resources.data() + count; }
};

class Topology {
 public:
  explicit Topology(const wl_topology_params& params);

  int ranks() const { return ranks_; }
  int nodes() const { return nodes_; }  // 1 where there are none
  int ranks_per_node() const { return ranks_ / nodes_; }
  // Every linked pair has a link of its own.
  bool exclusive() const { return exclusive_; }
  double overhead() const { return overhead_; }
  const std::string& name() const { return name_; }
  const std::vector<Resource>& resources() const { return resources_; }
  const Path& path(int source, int target) const { return paths_[source * ranks_ + target]; }
  // Bytes per second that a pair gets when nothing else is in flight; 0 without a link.
  double bandwidth(int source, int target) const;

  // Throws, naming the pair and who needs it, unless source can send to target.
  void need_link(int source, int target, const char* kind) const;

 private:
  int32_t add(Resource::Kind kind, int first, int second, double bandwidth);
  void connect(int source, int target, double latency, std::initializer_list<int32_t> resources);
  void link(int source, int target, double bandwidth, double latency);
  void build_nodes(const wl_topology_params& params);
  void build_switch(int first, int count, double bandwidth, double latency);
  void check_connected() const;

  int ranks_, nodes_ = 1;
  bool exclusive_ = true;
  double overhead_;
  std::string name_;
  std::vector<Resource> resources_;
  std::vector<Path> paths_;
};

}  // namespace warploom::collectives
