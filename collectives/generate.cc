// Kinds by name.
#include <cstring>

#include "collectives/error.h"
#include "collectives/generators.h"

namespace warploom::collectives {

Schedule generate(const Topology& topology, const wl_schedule_params& p) {
  const std::string kind = p.kind ? p.kind : "";
  if (p.parts < 0) invalid("parts is ", p.parts, ": must be at least 1, or 0 for the kind's own");
  const bool any_parts = kind == "ring" || kind == "direct";
  if (p.parts && !any_parts) {
    invalid("parts is ", p.parts, ": kind '", kind, "' sets its own number of parts");
  }
  if (kind == "ring") return ring(topology, p.parts);
  if (kind == "bidirectional") return bidirectional(topology);
  if (kind == "direct") return direct(topology, p.parts);
  invalid("kind is '", kind, "': must be one of ring, bidirectional, direct");
}

}  // namespace warploom::collectives
