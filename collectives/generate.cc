// Kinds by name.
#include "collectives/error.h"
#include "collectives/generators.h"

namespace warploom::collectives {

Schedule generate(const Topology& topology, const wl_schedule_params& p) {
  const std::string kind = p.kind ? p.kind : "";
  if (p.parts < 0) invalid("parts is ", p.parts, ": must be at least 1, or 0 for the kind's own");
  if (kind == "ring") return ring(topology, p.parts);
  if (kind == "direct") return direct(topology, p.parts);
  if (kind == "hierarchical") return hierarchical(topology, p.parts);
  if (p.parts) invalid("parts is ", p.parts, ": kind '", kind, "' sets its own number of parts");
  if (kind == "bidirectional") return bidirectional(topology);
  if (kind == "hamilton") return hamilton(topology);
  if (kind == "token_ring") return token_ring(topology);
  if (kind == "ulysses") return ulysses(topology);
  if (kind == "hybrid") return hybrid(topology, p.group);
  invalid("kind is '", kind,
          "': must be one of ring, bidirectional, hamilton, direct, hierarchical, ulysses, hybrid, "
          "token_ring");
}

}  // namespace warploom::collectives
