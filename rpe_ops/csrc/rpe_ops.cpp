// The two operators; their kernels, one set a device, are registered beside them.
//
//   rpe_index      out[b, h, i, j] = table[b, h, i, index[i, j]]
//   rpe_index_sum  out[b, h, i, n] = sum of x[b, h, i, j] over the j with index[i, j] == n
//
// table (B, H, Lq, N), x (B, H, Lq, Lk), floating point; index (Lq, Lk), int32.

#include <torch/library.h>
#include <torch/version.h>

TORCH_LIBRARY(rpe_ops, m) {
  m.def("rpe_index(Tensor table, Tensor index) -> Tensor");
  m.def("rpe_index_sum(Tensor x, Tensor index, SymInt num_buckets) -> Tensor");
}

// What the library was built for, to be found in the file without loading it: a library built
// for another torch could crash when loaded. See library.py.
#define TEXT_OF(...) #__VA_ARGS__
#define TEXT(...) TEXT_OF(__VA_ARGS__)
extern "C" __attribute__((used, visibility("default"))) const char rpe_ops_build_info[] =
    "rpe_ops-library version=" TEXT(RPE_OPS_VERSION) " torch=" TORCH_VERSION
    " cuda=" TEXT(RPE_OPS_CUDA_BUILD) " architectures=" TEXT(RPE_OPS_ARCHITECTURES)
    " compiler=" __VERSION__;
