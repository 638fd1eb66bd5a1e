#include "collectives/topology.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "collectives/error.h"

namespace warploom::collectives {
namespace {

// Above this a schedule of n^3 transfers no longer fits comfortably in memory.
constexpr int kMostRanks = 256;

void need_bandwidth(const char* name, double value) {
  if (!(value > 0) || std::isinf(value)) {
    invalid(name, " is ", value, " bytes/s: must be a finite number above 0");
  }
}

void need_time(const char* name, double value) {
  if (!(value >= 0) || std::isinf(value)) {
    invalid(name, " is ", value, " s: must be a finite number from 0");
  }
}

}  // namespace

std::string Resource::name() const {
  switch (kind) {
    case link:
      return say("link ", first, "->", second);
    case port_out:
      return say("port out of rank ", first);
    case port_in:
      return say("port into rank ", first);
    case nic_out:
      return say("nic ", second, " out of node ", first);
    case nic_in:
      return say("nic ", second, " into node ", first);
    case bus:
      return "bus";
  }
  return "";
}

Topology::Topology(const wl_topology_params& p) : ranks_(p.ranks), overhead_(p.overhead) {
  const std::string shape = p.shape ? p.shape : "";
  if (ranks_ < 2 || ranks_ > kMostRanks) {
    invalid("ranks is ", ranks_, ": must be 2 to ", kMostRanks);
  }
  need_time("latency", p.latency);
  need_time("overhead", p.overhead);
  if (shape != "matrix") need_bandwidth("bandwidth", p.bandwidth);
  paths_.resize(size_t(ranks_) * ranks_);
  name_ = say(shape, " of ", ranks_);
  if (shape == "full_mesh") {
    for (int i = 0; i < ranks_; ++i) {
      for (int j = 0; j < ranks_; ++j) {
        if (i != j) link(i, j, p.bandwidth, p.latency);
      }
    }
  } else if (shape == "ring") {
    for (int i = 0; i < ranks_; ++i) {
      link(i, (i + 1) % ranks_, p.bandwidth, p.latency);
      if (ranks_ > 2) link(i, (i + ranks_ - 1) % ranks_, p.bandwidth, p.latency);
    }
  } else if (shape == "switch") {
    exclusive_ = false;
    build_switch(0, ranks_, p.bandwidth, p.latency);
  } else if (shape == "bus") {
    exclusive_ = false;
    const int32_t all = add(Resource::bus, 0, 0, p.bandwidth);
    for (int i = 0; i < ranks_; ++i) {
      for (int j = 0; j < ranks_; ++j) {
        if (i != j) connect(i, j, p.latency, {all});
      }
    }
  } else if (shape == "nodes") {
    build_nodes(p);
  } else if (shape == "matrix") {
    if (!p.matrix) invalid("matrix is NULL: must be [ranks, ranks] bytes/s");
    for (int i = 0; i < ranks_; ++i) {
      for (int j = 0; j < ranks_; ++j) {
        const double bandwidth = p.matrix[size_t(i) * ranks_ + j];
        if (i == j) continue;
        if (!(bandwidth >= 0) || std::isinf(bandwidth)) {
          invalid("matrix[", i, ", ", j, "] is ", bandwidth,
                  " bytes/s: must be a finite number from 0, where 0 is no link");
        }
        if (bandwidth > 0) link(i, j, bandwidth, p.latency);
      }
    }
  } else {
    invalid("shape is '", shape, "': must be one of full_mesh, ring, switch, bus, nodes, matrix");
  }
  check_connected();
}

double Topology::bandwidth(int source, int target) const {
  const Path& way = path(source, target);
  if (!way.linked()) return 0;
  double least = std::numeric_limits<double>::infinity();
  for (const int32_t r : way) least = std::min(least, resources_[r].bandwidth);
  return least;
}

void Topology::need_link(int source, int target, const char* kind) const {
  if (!path(source, target).linked()) {
    invalid("kind is '", kind, "': it needs a link from rank ", source, " to rank ", target,
            ", which the topology (", name_, ") lacks");
  }
}

int32_t Topology::add(Resource::Kind kind, int first, int second, double bandwidth) {
  resources_.push_back({kind, first, second, bandwidth});
  return int32_t(resources_.size()) - 1;
}

void Topology::connect(int source, int target, double latency,
                       std::initializer_list<int32_t> resources) {
  Path& way = paths_[source * ranks_ + target];
  way.latency = latency;
  for (const int32_t r : resources) way.resources[way.count++] = r;
}

void Topology::link(int source, int target, double bandwidth, double latency) {
  connect(source, target, latency, {add(Resource::link, source, target, bandwidth)});
}

void Topology::build_switch(int first, int count, double bandwidth, double latency) {
  std::vector<int32_t> out, in;
  for (int i = first; i < first + count; ++i) {
    out.push_back(add(Resource::port_out, i, 0, bandwidth));
    in.push_back(add(Resource::port_in, i, 0, bandwidth));
  }
  for (int i = 0; i < count; ++i) {
    for (int j = 0; j < count; ++j) {
      if (i != j) connect(first + i, first + j, latency, {out[i], in[j]});
    }
  }
}

void Topology::build_nodes(const wl_topology_params& p) {
  if (p.nodes < 1 || ranks_ % p.nodes != 0) {
    invalid("nodes is ", p.nodes, ": must be at least 1 and divide the ", ranks_, " ranks");
  }
  nodes_ = p.nodes;
  exclusive_ = nodes_ == 1 && !p.switched;
  const int m = ranks_per_node();
  const int nics = p.nics == 0 ? m : p.nics;
  if (nics < 1 || m % nics != 0) {
    invalid("nics is ", p.nics, ": must be at least 1 and divide the ", m, " ranks of a node");
  }
  if (nodes_ > 1) need_bandwidth("inter_bandwidth", p.inter_bandwidth);
  need_time("inter_latency", p.inter_latency);
  name_ = say(nodes_, " nodes of ", m);
  for (int node = 0; node < nodes_; ++node) {
    const int first = node * m;
    if (p.switched) {
      build_switch(first, m, p.bandwidth, p.latency);
      continue;
    }
    for (int i = first; i < first + m; ++i) {
      for (int j = first; j < first + m; ++j) {
        if (i != j) link(i, j, p.bandwidth, p.latency);
      }
    }
  }
  if (nodes_ == 1) return;
  std::vector<int32_t> out, in;
  for (int nic = 0; nic < nodes_ * nics; ++nic) {
    out.push_back(add(Resource::nic_out, nic / nics, nic % nics, p.inter_bandwidth));
    in.push_back(add(Resource::nic_in, nic / nics, nic % nics, p.inter_bandwidth));
  }
  const int share = m / nics;  // ranks to a card
  for (int i = 0; i < ranks_; ++i) {
    for (int j = 0; j < ranks_; ++j) {
      if (i / m != j / m) connect(i, j, p.inter_latency, {out[i / share], in[j / share]});
    }
  }
}

void Topology::check_connected() const {
  for (const bool forward : {true, false}) {
    std::vector<char> seen(ranks_);
    std::vector<int> waiting{0};
    seen[0] = 1;
    while (!waiting.empty()) {
      const int i = waiting.back();
      waiting.pop_back();
      for (int j = 0; j < ranks_; ++j) {
        if (!seen[j] && (forward ? path(i, j) : path(j, i)).linked()) {
          seen[j] = 1;
          waiting.push_back(j);
        }
      }
    }
    for (int j = 0; j < ranks_; ++j) {
      if (!seen[j]) {
        invalid("the topology is not connected: no way leads from rank ", forward ? 0 : j,
                " to rank ", forward ? j : 0);
      }
    }
  }
}

}  // namespace warploom::collectives
