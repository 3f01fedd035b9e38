// The scalar functions that pointwise functors are made of, in namespace tessera::math: for float,
// double and (nested) dual numbers, on the CPU and in CUDA kernels.
//
// They are branch-free, without calls and tables, so a loop over an array vectorises; every one
// gives the limits at 0 and +-inf, passes NaN on and, given a Dual, knows its own derivative, which
// is finite wherever the true one is. At a kink each says what it takes. Mixed operands promote:
// max(x, 0.0f) with a dual x is dual.
//
// Errors in the comments are relative, first float, then double: the largest found over a million
// random bit patterns against long double, on a processor with fused multiply-add.
#pragma once

#include "tessera/core/math/basic.h"
#include "tessera/core/math/erf.h"
#include "tessera/core/math/exp.h"
#include "tessera/core/math/log.h"
#include "tessera/core/math/pow.h"
#include "tessera/core/math/trig.h"
