"""Mistakes in the compiled operators, and in finding, building and choosing them."""

HOST = "test_cuda_source.py::test_cuda_kernels_on_the_cpu[address,undefined]"
COMMON = "rpe_ops/csrc/cuda/common.cuh"
LOOKUP = "rpe_ops/csrc/cuda/lookup.cuh"
SUM = "rpe_ops/csrc/cuda/bucket_sum.cuh"
LAUNCH = "rpe_ops/csrc/cuda/launch.h"

MUTANTS = [
    ("table stride ignored on CUDA", LOOKUP, "rows.next()[n * stride]", "rows.next()[n]", HOST),
    ("table stride ignored on CUDA, many buckets", LOOKUP, "rows.next()[id * stride]",
     "rows.next()[id]", HOST),
    ("queries of a row that is all queries' on CUDA", COMMON, "query * rows.query_stride",
     "query * rows.heads * rows.stride", HOST),
    ("32-bit offset of a row on CUDA", LOOKUP, "(first * sizes.queries + query) * sizes.keys",
     "int32_t(uint32_t(first * sizes.queries + query) * uint32_t(sizes.keys))", HOST),
    ("32-bit offset of ids on CUDA", SUM,
     "index + query * sizes.keys;\n    const Span",
     "index + int32_t(uint32_t(query) * uint32_t(sizes.keys));\n    const Span", HOST),
    ("32-bit stride of heads on CUDA", COMMON, "to_next(step * rows.head_stride)",
     "to_next(int32_t(step * rows.head_stride))", HOST),
    ("64-bit division of 32 bits on CUDA", COMMON, "((a | b) >> 32) == 0", "(b >> 32) == 0", HOST),
    ("ids out of range not replaced on CUDA", LOOKUP, "id[k] < last_id ? id[k] : last_id",
     "id[k]", HOST),
    ("only the first id remembered on CUDA", COMMON,
     "largest = id[k] > largest ? id[k]", "largest = id[0] > largest ? id[0]", HOST),
    ("keys at the end of a row forgotten on CUDA", SUM, "if (lane < span.ends)",
     "if (lane < span.head)", HOST),
    ("tables overwritten while read on CUDA", LOOKUP, "    __syncthreads();  // nobody",
     "    // nobody", HOST),
    ("rows of a group aligned differently on CUDA", LAUNCH,
     "sizes.queries * sizes.keys % width != 0", "sizes.queries * sizes.keys % 2 != 0", HOST),
    ("shared memory of one warp for all on CUDA", LAUNCH,
     "plan.shared_bytes = warps * warp_bytes", "plan.shared_bytes = warp_bytes", HOST),
    ("a grid larger than CUDA's", LAUNCH, "std::min(plan.groups, MAX_GRID_Y)", "plan.groups", HOST),
    ("vendors' versions of torch not known", "rpe_ops/library.py",
     "release_of(torch.__version__):", 'torch.__version__.split("+")[0]:',
     "test_library.py::test_a_vendors_or_nightly_torch_is_known_by_its_release"),
    ("code of a later minor version runs", "rpe_ops/library.py",
     "built[0] == capability[0] and built[1] <= capability[1]", "built[0] == capability[0]",
     "test_gpus.py::test_which_gpus_can_run_what"),
    ("PTX for the same generation alone", "rpe_ops/library.py", "fits = built <= capability",
     "fits = built[0] == capability[0]", "test_gpus.py::test_which_gpus_can_run_what"),
    ("a GPU without code not noticed", "rpe_ops/library.py",
     'in LIBRARY.devices and has_code_for(index)', "in LIBRARY.devices",
     "test_gpus.py::test_a_gpu_without_code_uses_pytorch_and_says_so_once"),
    ("the first toolkit, whether it fits or not", "rpe_ops/toolkit.py",
     'if toolkit.version.split(".")[0] == cuda.split(".")[0]:', "if toolkit:",
     "test_gpus.py::test_toolkits_are_found_in_all_places"),
    ("no PTX for later GPUs", "rpe_ops/toolkit.py",
     'return [*codes, codes[-1].replace("sm", "compute")]', "return codes",
     "test_gpus.py::test_by_default_all_gpus_are_compiled_for"),
]  # fmt: skip
