/* Who sends what to whom, and when: topologies, schedules of an exchange between ranks, proofs that
 * a schedule is right, lower bounds and predicted times. Host only; nothing here moves data.
 *
 * Units: bytes, seconds, bytes per second. Ranks count from 0.
 *
 * A schedule cuts what each rank (the owner) gives into `parts` chunks; chunk = owner * parts +
 * part. It runs in steps. In step t the transfers of round t and of reduction round t are in
 * flight, while each rank computes with what arrived in round t - 1 (in step 0, with its own). So a
 * chunk that arrives in round t may be sent on in round t + 1, and what was computed from it may
 * leave in reduction round t + 2.
 *
 * A reduction transfer hands on the sender's partial result of a chunk: its own contribution first,
 * then the partial results it received for that chunk, in the order in which the reduction lists
 * them. The owner ends with everybody's. Listing order alone fixes the order of every sum.
 */
#ifndef WARPLOOM_COLLECTIVES_H
#define WARPLOOM_COLLECTIVES_H

#include "warploom/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct wl_topology wl_topology;
typedef struct wl_schedule wl_schedule;

/* shape         links
 * "full_mesh"   one of `bandwidth` from each rank to each other
 * "ring"        one of `bandwidth` from each rank to the next and one to the previous
 * "switch"      each rank has a port, `bandwidth` out and as much in, shared by its transfers
 * "bus"         all transfers share `bandwidth`, as processes of one machine share its memory
 * "nodes"       nodes * (ranks / nodes): inside a node a mesh of `bandwidth` (switched: a switch),
 *               between nodes `nics` network cards a node of `inter_bandwidth` out and as much in,
 *               each shared by neighbouring ranks
 * "matrix"      one of matrix[source, target] for each pair where that is not 0 */
typedef struct wl_topology_params {
  uint32_t struct_size;
  const char* shape;
  int32_t ranks;
  double bandwidth;
  double latency;  /* seconds from posting a transfer until its first byte arrives */
  double overhead; /* seconds a rank is busy with each message, beside the link's time */
  int32_t nodes;   /* "nodes" only, from here */
  int32_t nics;    /* 0: one for each rank */
  int32_t switched;
  double inter_bandwidth, inter_latency;
  const double* matrix; /* "matrix" only: [ranks, ranks] row by row, the diagonal unused */
} wl_topology_params;

/* The topology is the caller's to destroy. */
WL_API wl_status wl_topology_create(const wl_topology_params* params, wl_topology** topology);
WL_API void wl_topology_destroy(wl_topology* topology);

typedef struct wl_transfer {
  int32_t source, target, chunk;
} wl_transfer;

/* What travels, and so which ranks must get a chunk. */
typedef enum wl_moves {
  WL_MOVES_KV = 0, /* keys and values: every rank; gradients come home */
  WL_MOVES_Q = 1,  /* queries: every rank; (o, lse) come home */
  WL_MOVES_HEADS =
      2 /* part p, some heads of q, k and v: ranks r with r % parts == p; o comes home */
} wl_moves;

/* Everything of a schedule. Round t is transfers[ends[t - 1]] .. transfers[ends[t] - 1]. */
typedef struct wl_schedule_view {
  uint32_t struct_size;
  const char* kind;
  const char* note; /* what its user should know, or "" */
  int32_t moves;    /* wl_moves */
  int32_t ranks, parts;
  int64_t rounds;
  const int64_t* ends; /* [rounds] */
  const wl_transfer* transfers;
  int64_t reduction_rounds;
  const int64_t* reduction_ends;
  const wl_transfer* reduction_transfers;
} wl_schedule_view;

/* kind              what it does
 * "ring"            each chunk goes round one cycle of all ranks; parts: any
 * "bidirectional"   half of it each way round
 * "hamilton"        one part round each of ranks - 1 arc-disjoint Hamiltonian cycles
 * "direct"          in round t each owner sends its part t to everybody; parts: any
 * "hierarchical"    to the same place in other nodes, from there inside the node; parts: any
 * "ulysses"         heads are exchanged for sequence
 * "hybrid"          heads inside groups of `group` neighbours, keys round the groups; the way home
 *                   is that of o: its gradients are not described
 * "token_ring"      queries go round, results straight home */
typedef struct wl_schedule_params {
  uint32_t struct_size;
  const char* kind;
  int32_t parts; /* 0: the kind's own choice */
  int32_t group; /* "hybrid": ranks that exchange heads */
} wl_schedule_params;

/* WL_INVALID where the topology lacks a link that the kind needs: which is said. */
WL_API wl_status wl_schedule_create(const wl_topology* topology, const wl_schedule_params* params,
                                    wl_schedule** schedule);
/* A schedule made elsewhere; copied, and not verified but for ranks and chunks that are none. */
WL_API wl_status wl_schedule_import(const wl_schedule_view* view, wl_schedule** schedule);
WL_API void wl_schedule_destroy(wl_schedule* schedule);
/* Fills the view, whose struct_size is set; its pointers live as long as the schedule. */
WL_API wl_status wl_schedule_read(const wl_schedule* schedule, wl_schedule_view* view);

/* Directed Hamiltonian cycles of the complete graph of `ranks` vertices that have no arc in common:
 * ranks - 1, which use every arc; for 4 and 6 ranks, where no such set exists, ranks - 2.
 * cycles: [count, ranks] vertices in order; `capacity` is how many elements it has room for.
 * *count is set also where cycles is NULL. *note, if wanted: why they are fewer, or ""; static. */
WL_API wl_status wl_hamiltonian_cycles(int32_t ranks, int32_t* cycles, int64_t capacity,
                                       int64_t* count, const char** note);

/* WL_OK if every chunk reaches every rank that must have it exactly once, none is sent on before it
 * arrived, every transfer has a link (and, where each pair has its own, no link two in a round),
 * and every contribution comes home exactly once, after the chunk was there. Otherwise WL_INVALID
 * and the first step, rank and chunk at fault. */
WL_API wl_status wl_schedule_verify(const wl_topology* topology, const wl_schedule* schedule);

/* One pass over a schedule: what it moves and computes, of each rank. */
typedef struct wl_pass {
  uint32_t struct_size;
  double out_bytes;   /* of all parts of an owner, sent to where its queries are answered */
  double relay_bytes; /* the same where "heads" goes on to other groups, without q; else unused */
  double home_bytes;  /* of partial results for all parts; 0: nothing comes home */
  double compute_seconds; /* of a rank's whole computation */
  const double* shares;   /* [parts] of the bytes, 1 together; with heads also of the computation;
                             NULL: equal ones */
} wl_pass;

/* The model: a step takes as long as its transfers or its computation, whichever is longer; its
 * transfers take the latency, plus the overhead for each message of the rank that has most, plus
 * the bytes over bandwidth of the link, port, card or bus that takes longest. Steps follow each
 * other. */
typedef struct wl_cost {
  uint32_t struct_size;
  double seconds;
  double communication_seconds; /* with nothing to compute */
  double compute_seconds;       /* with nothing to wait for; more than the pass's own if uneven */
  double exposed_seconds;       /* seconds - compute_seconds: what communication adds */
  double
      busiest_seconds;  /* bytes over bandwidth of the busiest link, port, card or bus, all steps */
  double bound_seconds; /* by bandwidth alone, no schedule that moves the same can be faster */
  double wire_seconds;  /* communication_seconds = latencies + overheads + wire_seconds */
  int64_t steps;        /* with transfers */
  int64_t messages;     /* of the rank that has most, summed over steps */
  char bound[128];      /* what cannot be passed faster */
} wl_cost;

WL_API wl_status wl_schedule_cost(const wl_topology* topology, const wl_schedule* schedule,
                                  const wl_pass* pass, wl_cost* cost);

/* Bytes that a pass moves over one link, port, card or bus. */
typedef struct wl_load {
  char name[48];
  double bytes, bandwidth;
} wl_load;

/* Writes at most `capacity` loads; *count gets how many there are. */
WL_API wl_status wl_schedule_loads(const wl_topology* topology, const wl_schedule* schedule,
                                   const wl_pass* pass, wl_load* loads, int64_t capacity,
                                   int64_t* count);

#ifdef __cplusplus
}
#endif
#endif /* WARPLOOM_COLLECTIVES_H */
