/* The C interface of libtriton_torch_shim.so, through which tritonserver runs PyTorch models. libtorch itself has no C interface,
 * and its C++ one differs with each version: so shim.cpp is compiled by deploy/shims/build for the libtorch that is there, and
 * tritonserver, which knows this file alone, opens the result when the first model needs it.
 *
 * Functions that can fail answer null, or a text that triton_torch_free_text gives back. No exception leaves them. A module may be run
 * by several threads at once. Numbers of types are those of c10::ScalarType.
 *
 * What changes here changes TRITON_TORCH_INTERFACE, and server/backends/src/pytorch/raw.rs.
 */
#ifndef TRITON_TORCH_SHIM_H
#define TRITON_TORCH_SHIM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TRITON_TORCH_INTERFACE 1

/* In place of the number of a type: a List[str]. */
#define TRITON_TORCH_STRINGS (-1)

/* In place of the number of a type: an output that libtorch does not describe. */
#define TRITON_TORCH_NO_TYPE (-2)

/* In place of the number of a GPU. */
#define TRITON_TORCH_CPU (-1)
#define TRITON_TORCH_AS_SAVED (-2) /* each tensor of the model stays on the device that its file says */

/* A loaded model file. */
typedef struct triton_torch_module triton_torch_module;

/* One output of a run: a tensor in host memory, row by row, or a list of strings. */
typedef struct triton_torch_output triton_torch_output;

/* Bytes, not terminated. */
typedef struct {
    const char *start;
    size_t length;
} triton_torch_text;

/* How the runs of a module are made: 0 no, 1 yes, and -1 as libtorch does it by itself. */
typedef struct {
    int32_t optimized;      /* graphs are optimized */
    int32_t inference_mode; /* tensors keep nothing for gradients */
    int32_t cudnn;
    int32_t jit_profiling;
    int32_t jit_executor;
    int32_t tensor_fuser;
    int32_t cleans_cache; /* after each run the GPU gets back what libtorch's allocator does not use */
} triton_torch_modes;

/* One input of a run. */
typedef struct {
    const char *key;                /* its key, where the module takes a dictionary */
    int32_t type;                   /* c10::ScalarType, or TRITON_TORCH_STRINGS */
    size_t rank;
    const int64_t *shape;
    const void *data;               /* elements, aligned to their type; read only, and only until the run is over */
    const triton_torch_text *texts; /* elements of a list of strings, as many as shape[0] */
} triton_torch_input;

/* What an output holds, as long as the output lives. */
typedef struct {
    int32_t type; /* c10::ScalarType, TRITON_TORCH_STRINGS or TRITON_TORCH_NO_TYPE */
    size_t rank;
    const int64_t *shape;
    const void *data; /* elements of a tensor */
    size_t bytes;
} triton_torch_description;

/* === The library === */

/* TRITON_TORCH_INTERFACE of this file. Stays as it is in all versions. */
uint32_t triton_torch_interface(void);

/* The version of libtorch that the shim was compiled for, and of the one that the loader has found. */
const char *triton_torch_compiled_for(void);
const char *triton_torch_found(void);

/* Whether it reads packages of AOTInductor: 0 or 1. */
int32_t triton_torch_has_aoti(void);

/* How many GPUs libtorch can use. */
int32_t triton_torch_gpu_count(void);

/* Threads within an operation, and between operations, of all modules together. */
int32_t triton_torch_intra_op_threads(void);
int32_t triton_torch_inter_op_threads(void);
char *triton_torch_set_intra_op_threads(int32_t count);
char *triton_torch_set_inter_op_threads(int32_t count); /* once, before the first run */

/* Who hears libtorch's warnings. Called by any thread. */
void triton_torch_on_warning(void (*hear)(const char *text, size_t length));

void triton_torch_free_text(char *text);

/* === Modules === */

/* Reads a TorchScript file. `device`: the number of a GPU, or one of the words above. */
char *triton_torch_load_script(const char *path, int32_t device, const triton_torch_modes *modes, triton_torch_module **module);

/* Reads a package of AOTInductor. */
char *triton_torch_load_package(const char *path, int32_t device, const triton_torch_modes *modes, triton_torch_module **module);

void triton_torch_unload(triton_torch_module *module);

/* The arguments of a script's forward(), without self: names, and types as Python writes them. */
size_t triton_torch_argument_count(const triton_torch_module *module);
const char *triton_torch_argument_name(const triton_torch_module *module, size_t index);
const char *triton_torch_argument_type(const triton_torch_module *module, size_t index);

/* How a package is called: the trees of its inputs (index 0) and outputs (1) as PyTorch writes them in JSON. */
const char *triton_torch_call_spec(const triton_torch_module *module, size_t index);

/* Bytes of a script's parameters and buffers on a device, TRITON_TORCH_CPU or the number of a GPU. */
uint64_t triton_torch_weight_bytes(const triton_torch_module *module, int32_t device);

/* === Runs === */

/* Runs the module on all its inputs, in the order of its arguments. Of its outputs, counted in `count`, those whose indexes are `wanted`
 * are written to `outputs`, in that order, each to be given back by triton_torch_free_output; null for an index that there is not. */
char *triton_torch_run(const triton_torch_module *module, const triton_torch_input *inputs, size_t input_count, const size_t *wanted,
                       size_t wanted_count, triton_torch_output **outputs, size_t *count);

void triton_torch_describe(const triton_torch_output *output, triton_torch_description *description);

/* The string of that index in a list. */
triton_torch_text triton_torch_string(const triton_torch_output *output, size_t index);

void triton_torch_free_output(triton_torch_output *output);

#ifdef __cplusplus
}
#endif

#endif
