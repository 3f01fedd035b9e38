// Decision trees with soft decisions: the routing part of the comet gate.
#pragma once

#include "tessera/nn/linear.h"

namespace tessera {

struct TreeProbabilities {
  Tensor leaves;  // (T, k, n) probability of every leaf, leaves from left to right
  Tensor inner;   // (T, k, n − 1) of reaching each inner node, in depth-first order
};

// k trees of n leaves and one shape: nodes are numbered like a heap, 0 … 2n − 2, node v is inner
// iff v < n − 1 and has the children 2v + 1 and 2v + 2. A row x goes left at node v with
// probability
//   s_v = smooth_step(x Z_v + z_v, γ),
// right with 1 − s_v: for |x Z_v + z_v| ≥ γ/2 it goes one way, and what lies the other way has
// probability 0 and no gradient (Hazimeh et al. 2020, "The Tree Ensemble Layer").
struct SoftTrees : Module {
  Linear nodes;  // output v k + t is node v of tree t

  SoftTrees(int64_t width, int64_t leaves, int64_t trees, double gamma, bool bias);
  TreeProbabilities operator()(const Tensor& x) const;
  // The same values and gradients, each node computed only for the rows that reach it. The host
  // reads which; for the CPU.
  TreeProbabilities conditional(const Tensor& x) const;
  TESSERA_MEMBERS(nodes)

 private:
  int64_t leaves_, trees_;
  double gamma_;
};

// Nodes that SoftTrees has computed since the start, one for each row and tree.
int64_t tree_nodes_evaluated();

}  // namespace tessera
