// libtriton_torch_shim.so: libtorch behind the C interface of triton_torch_shim.h. Compiled by deploy/shims/build.
//
// It decides nothing that it could leave to the server: it loads, runs, and says what there is. Three things only this side can see to:
// inputs lie over memory of requests, so what a model writes to is copied before the run, and what it keeps is copied after it; outputs
// belong to nobody else when they leave, neither to the module nor to an input.

#include "triton_torch_shim.h"

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <sys/mman.h>

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/passes/tensorexpr_fuser.h>
#include <torch/csrc/jit/python/update_graph_executor_opt.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/cuda.h>
#include <torch/script.h>
#include <torch/version.h>

// The header is older than what this asks of it: a package for a GPU of a number.
#if __has_include(<torch/csrc/inductor/aoti_package/model_package_loader.h>) &&                                                                \
    (TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 8))
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#define HAS_PACKAGES 1
#else
#define HAS_PACKAGES 0
#endif

#ifdef TRITON_TORCH_CUDA // deploy/shims/build finds what this needs
#include <c10/cuda/CUDACachingAllocator.h>
#endif

namespace {

struct Argument {
    std::string name;
    std::string type;
    bool is_written; // forward() may write to the tensor that is passed for it
};

char *text(const char *words)
{
    char *copy = static_cast<char *>(std::malloc(std::strlen(words) + 1));
    return copy == nullptr ? nullptr : std::strcpy(copy, words);
}

// Calls what may throw; answers null, or the text of the exception.
template <typename Call>
char *guarded(Call &&call) noexcept
{
    try {
        call();
        return nullptr;
    } catch (const c10::Error &error) {
        return text(error.what_without_backtrace());
    } catch (const std::exception &error) {
        return text(error.what());
    } catch (...) {
        return text("unknown exception");
    }
}

// === Warnings ===

void (*hear_warning)(const char *, size_t) = nullptr;

class Warnings : public c10::WarningHandler {
  public:
#if TORCH_VERSION_MAJOR >= 2
    void process(const c10::Warning &warning) override { pass(warning.msg()); }
#else
    void process(const c10::SourceLocation &, const std::string &message, bool) override { pass(message); }
#endif

  private:
    static void pass(const std::string &message)
    {
        if (hear_warning != nullptr) {
            hear_warning(message.data(), message.size());
        }
    }
};

Warnings warnings;

#if TORCH_VERSION_MAJOR >= 2
using WarningGuard = c10::WarningUtils::WarningHandlerGuard;
#else
using WarningGuard = c10::Warning::WarningHandlerGuard;
#endif

// === Memory of weights ===

// While a thread loads a module, large blocks are mappings of their own, which go back to the system with the module. Those of the heap
// would stay: it keeps the last free mebibytes of each of its arenas, and threads that load come and go in all of them.
class LoadAllocator : public c10::Allocator {
  public:
    static thread_local bool is_loading;

    // Once for the process; the allocator of libtorch has all the rest.
    static void install()
    {
        static LoadAllocator *const installed = [] {
            auto *const allocator = new LoadAllocator(c10::GetCPUAllocator());
            c10::SetCPUAllocator(allocator);
            return allocator;
        }();
        (void)installed;
    }

    // Versions of libtorch differ in whether this is const, and in whether there is a copy_data: so neither is marked as overriding.
    c10::DataPtr allocate(size_t bytes) const { return made(bytes); }
    c10::DataPtr allocate(size_t bytes) { return made(bytes); }
    void copy_data(void *to, const void *from, size_t bytes) const { std::memcpy(to, from, bytes); }
    auto raw_deleter() const -> void (*)(void *) override { return usual->raw_deleter(); }

  private:
    struct Mapping {
        void *start;
        size_t length;
    };

    c10::Allocator *const usual;

    explicit LoadAllocator(c10::Allocator *usual) : usual(usual) {}

    c10::DataPtr made(size_t bytes) const
    {
        constexpr size_t large = 64 * 1024;
        if (is_loading && bytes >= large) {
            void *const start = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (start != MAP_FAILED) {
                return {start, new Mapping{start, bytes}, unmap, at::Device(at::kCPU)};
            }
        }
        return usual->allocate(bytes); // which has words for memory that there is not
    }

    static void unmap(void *context)
    {
        const std::unique_ptr<Mapping> mapping(static_cast<Mapping *>(context));
        munmap(mapping->start, mapping->length);
    }
};

thread_local bool LoadAllocator::is_loading = false;

class Loading {
  public:
    Loading()
    {
        LoadAllocator::install();
        LoadAllocator::is_loading = true;
    }
    ~Loading() { LoadAllocator::is_loading = false; }
    Loading(const Loading &) = delete;
    Loading &operator=(const Loading &) = delete;
};

// === What forward() does to its arguments ===

// Whether any operation of a graph writes to a tensor.
bool writes(const torch::jit::Block *block)
{
    for (const torch::jit::Node *node : block->nodes()) {
        const c10::FunctionSchema *schema = node->maybeSchema();
        if (schema != nullptr && schema->is_mutable()) {
            return true;
        }
        for (const torch::jit::Block *inner : node->blocks()) {
            if (writes(inner)) {
                return true;
            }
        }
    }
    return false;
}

std::vector<Argument> arguments_of(const torch::jit::Method &forward)
{
    const std::vector<c10::Argument> &arguments = forward.function().getSchema().arguments();
    const auto graph = forward.graph()->copy();
    torch::jit::Inline(*graph);
    const torch::jit::AliasDb aliases(graph);
    const bool writes_somewhere = writes(graph->block());
    std::vector<Argument> described;
    for (size_t index = 0; index < arguments.size(); index++) {
        const c10::Argument &argument = arguments[index];
        if (index == 0 && argument.type()->kind() == c10::TypeKind::ClassType) {
            continue; // self
        }
        const bool is_tensor = argument.type()->kind() == c10::TypeKind::TensorType;
        // What happens to the tensors in a container cannot be told.
        const bool is_written = is_tensor ? aliases.hasWriters(graph->inputs().at(index)) : writes_somewhere;
        described.push_back({argument.name(), argument.type()->str(), is_written});
    }
    return described;
}

} // namespace

struct triton_torch_module {
    triton_torch_modes modes;
    c10::optional<at::Device> device; // none: as saved
    c10::optional<torch::jit::Module> script;
    c10::optional<torch::jit::Method> forward;
    std::vector<Argument> arguments;
    bool takes_dictionary = false;
#if HAS_PACKAGES
    std::unique_ptr<torch::inductor::AOTIModelPackageLoader> package;
#endif
    std::vector<std::string> call_spec;
};

struct triton_torch_output {
    at::Tensor tensor;
    std::vector<std::string> strings;
    std::vector<int64_t> shape; // of strings
};

namespace {

c10::optional<at::Device> device_of(int32_t number)
{
    if (number == TRITON_TORCH_AS_SAVED) {
        return c10::nullopt;
    }
    return number == TRITON_TORCH_CPU ? at::Device(at::kCPU) : at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(number));
}

// Modes that are the process's or the thread's. Only what differs is written, for other threads read them.
void apply(const triton_torch_modes &modes)
{
    torch::jit::setGraphExecutorOptimize(modes.optimized != 0);
    const auto set = [](std::atomic<bool> &mode, int32_t wanted) {
        if (wanted >= 0 && mode.load(std::memory_order_relaxed) != (wanted != 0)) {
            mode.store(wanted != 0);
        }
    };
    set(torch::jit::getProfilingMode(), modes.jit_profiling);
    set(torch::jit::getExecutorMode(), modes.jit_executor);
    if (modes.tensor_fuser >= 0 && torch::jit::tensorExprFuserEnabled() != (modes.tensor_fuser != 0)) {
        torch::jit::setTensorExprFuserEnabled(modes.tensor_fuser != 0);
    }
    if (at::globalContext().userEnabledCuDNN() != (modes.cudnn != 0)) {
        at::globalContext().setUserEnabledCuDNN(modes.cudnn != 0);
    }
}

void clean_cache()
{
#ifdef TRITON_TORCH_CUDA
    c10::cuda::CUDACachingAllocator::emptyCache();
#endif
}

// Refuses what this shim was not compiled for.
void check(const triton_torch_modes &modes, int32_t device)
{
#ifdef TRITON_TORCH_CUDA
    (void)modes, (void)device;
#else
    if (modes.cleans_cache == 1 && device != TRITON_TORCH_CPU && torch::cuda::is_available()) {
        throw std::invalid_argument("ENABLE_CACHE_CLEANING needs a shim that was compiled with CUDA's headers: see deploy/shims/build");
    }
#endif
}

// === Inputs ===

c10::IntArrayRef shape_of(const triton_torch_input &input) { return {input.shape, input.rank}; }

// A tensor over the memory of the input.
at::Tensor borrowed(const triton_torch_input &input)
{
    const auto options = at::TensorOptions(static_cast<at::ScalarType>(input.type));
    for (size_t index = 0; index < input.rank; index++) {
        if (input.shape[index] == 0) {
            return at::empty(shape_of(input), options);
        }
    }
    return at::from_blob(const_cast<void *>(input.data), shape_of(input), options);
}

c10::List<std::string> strings(const triton_torch_input &input)
{
    c10::List<std::string> list;
    const size_t count = input.rank == 1 ? static_cast<size_t>(input.shape[0]) : 0;
    list.reserve(count);
    for (size_t index = 0; index < count; index++) {
        list.push_back(std::string(input.texts[index].start, input.texts[index].length));
    }
    return list;
}

// The tensors of a run that lie over memory of requests.
class Borrowed {
  public:
    // The tensor that the model gets.
    at::Tensor take(const triton_torch_input &input, bool is_written, const c10::optional<at::Device> &device)
    {
        if (input.type < 0) {
            throw std::invalid_argument("strings cannot be passed as a tensor");
        }
        at::Tensor tensor = borrowed(input);
        if (device.has_value() && !device->is_cpu()) {
            return tensor.to(*device);
        }
        if (is_written) {
            return tensor.clone();
        }
        tensors.push_back(tensor);
        return tensor;
    }

    // Gives memory of their own to tensors that the model still holds. Throws where there is none.
    void give_back()
    {
        while (!tensors.empty()) {
            const at::Tensor &tensor = tensors.back();
            if (is_kept(tensor)) {
                at::DataPtr own = at::getCPUAllocator()->allocate(tensor.nbytes());
                std::memcpy(own.get(), tensor.data_ptr(), tensor.nbytes());
                tensor.storage().set_data_ptr_noswap(std::move(own));
            }
            tensors.pop_back();
        }
    }

    // What could not be given memory of its own, or was not asked to have it, holds nothing from now on: an error for who reads it.
    ~Borrowed()
    {
        for (const at::Tensor &tensor : tensors) {
            if (is_kept(tensor)) {
                tensor.storage().set_data_ptr_noswap({});
                tensor.storage().set_nbytes(size_t{0});
            }
        }
    }

    Borrowed() = default;
    Borrowed(const Borrowed &) = delete;
    Borrowed &operator=(const Borrowed &) = delete;

  private:
    std::vector<at::Tensor> tensors;

    static bool is_kept(const at::Tensor &tensor)
    {
        return tensor.nbytes() > 0 && (tensor.use_count() > 1 || tensor.storage().use_count() > 1);
    }
};

// === Outputs ===

// The tensor in host memory, row by row, and nobody else's.
at::Tensor owned(at::Tensor tensor)
{
    if (tensor.layout() != at::kStrided || tensor.is_nested()) {
        throw std::invalid_argument("output must be a dense tensor");
    }
    if (!tensor.device().is_cpu()) {
        tensor = tensor.to(at::kCPU);
    }
    tensor = tensor.resolve_neg().resolve_conj().contiguous();
    const bool is_shared = tensor.use_count() > 1 || tensor.storage().use_count() > 1;
    return is_shared ? tensor.clone(at::MemoryFormat::Contiguous) : tensor;
}

std::string unfit_list(const c10::IValue &value, const std::string &which)
{
    return which + "must be of type Tensor or List[str], received List[" + value.toList().elementType()->str() + "]";
}

bool is_strings(const c10::IValue &value)
{
    return value.isList() && value.toList().elementType()->kind() == c10::TypeKind::StringType;
}

// The outputs that a script's answer consists of.
std::vector<c10::IValue> parts(c10::IValue answer)
{
    std::vector<c10::IValue> parts;
    if (answer.isTuple()) {
        for (const c10::IValue &element : answer.toTupleRef().elements()) {
            parts.push_back(element);
        }
        for (size_t index = 0; index < parts.size(); index++) {
            const std::string which = "output at index " + std::to_string(index) + " ";
            if (parts[index].isList() && !is_strings(parts[index])) {
                throw std::invalid_argument(unfit_list(parts[index], which));
            }
            if (!parts[index].isTensor() && !parts[index].isList()) {
                throw std::invalid_argument(which + "must be of type Tensor or List[str], received " + parts[index].tagKind());
            }
        }
    } else if (answer.isTensor() || is_strings(answer)) {
        parts.push_back(std::move(answer));
    } else if (answer.isList()) {
        throw std::invalid_argument(unfit_list(answer, "output "));
    } else {
        throw std::invalid_argument("output must be of type Tensor, List[str] or Tuple containing one of these two types. It should not be a "
                                    "List / Dictionary of Tensors or a Scalar");
    }
    return parts;
}

std::unique_ptr<triton_torch_output> output(c10::IValue part)
{
    auto made = std::make_unique<triton_torch_output>();
    if (part.isTensor()) {
        made->tensor = owned(std::move(part).toTensor());
        return made;
    }
    const c10::List<c10::IValue> list = part.toList();
    made->strings.reserve(list.size());
    for (size_t index = 0; index < list.size(); index++) {
        made->strings.push_back(list.get(index).toStringRef());
    }
    made->shape.push_back(static_cast<int64_t>(list.size()));
    return made;
}

// === Runs ===

std::vector<c10::IValue> run_script(const triton_torch_module &module, const triton_torch_input *inputs, size_t count, Borrowed &lent)
{
    std::vector<c10::IValue> stack;
    if (module.takes_dictionary) {
        const bool is_written = module.arguments.at(0).is_written;
        c10::Dict<std::string, at::Tensor> dictionary;
        for (size_t index = 0; index < count; index++) {
            dictionary.insert(inputs[index].key, lent.take(inputs[index], is_written, module.device));
        }
        stack.emplace_back(std::move(dictionary));
    } else {
        stack.reserve(count + 1); // and self
        for (size_t index = 0; index < count; index++) {
            if (inputs[index].type == TRITON_TORCH_STRINGS) {
                stack.emplace_back(strings(inputs[index]));
            } else {
                const bool is_written = index >= module.arguments.size() || module.arguments[index].is_written;
                stack.emplace_back(lent.take(inputs[index], is_written, module.device));
            }
        }
    }
    return parts((*module.forward)(std::move(stack)));
}

std::vector<c10::IValue> run_package(const triton_torch_module &module, const triton_torch_input *inputs, size_t count, Borrowed &lent)
{
    std::vector<c10::IValue> answered;
#if HAS_PACKAGES
    std::vector<at::Tensor> tensors;
    tensors.reserve(count);
    for (size_t index = 0; index < count; index++) {
        tensors.push_back(lent.take(inputs[index], true, module.device)); // a package does not say what it writes to
    }
    try {
        for (at::Tensor &tensor : module.package->run(tensors)) {
            answered.emplace_back(std::move(tensor));
        }
    } catch (const std::exception &error) {
        if (std::strstr(error.what(), "run_func_(") == nullptr) {
            throw;
        }
        // What comes through the C interface of a package is a number; the words for it have been printed.
        throw std::runtime_error("the package refuses these inputs or fails; its reason is on standard error");
    }
#else
    (void)module, (void)inputs, (void)count, (void)lent;
#endif
    return answered;
}

void run(const triton_torch_module &module, const triton_torch_input *inputs, size_t input_count, const size_t *wanted, size_t wanted_count,
         std::vector<std::unique_ptr<triton_torch_output>> &made, size_t *count)
{
    const WarningGuard heard(&warnings);
    apply(module.modes);
    at::internal::lazy_init_num_threads();
    const c10::InferenceMode inference(module.modes.inference_mode != 0);
    const at::NoGradGuard no_gradients;
    Borrowed lent;
    try {
        std::vector<c10::IValue> answer = module.forward.has_value() ? run_script(module, inputs, input_count, lent)
                                                                     : run_package(module, inputs, input_count, lent);
        *count = answer.size();
        for (size_t index = 0; index < wanted_count; index++) {
            const bool is_last = std::find(wanted + index + 1, wanted + wanted_count, wanted[index]) == wanted + wanted_count;
            if (wanted[index] >= answer.size()) {
                made.push_back(nullptr);
            } else {
                made.push_back(output(is_last ? std::move(answer[wanted[index]]) : answer[wanted[index]]));
            }
        }
    } catch (...) {
        lent.give_back();
        throw;
    }
    lent.give_back(); // after the answer, which may hold what the model does not
    if (module.modes.cleans_cache == 1 && torch::cuda::is_available()) {
        clean_cache();
    }
}

} // namespace

// === The interface ===

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED uint32_t triton_torch_interface(void) { return TRITON_TORCH_INTERFACE; }

EXPORTED const char *triton_torch_compiled_for(void) { return TORCH_VERSION; }

EXPORTED const char *triton_torch_found(void)
{
    static std::string found;
    char *const failed = guarded([] {
        const std::string key = "TORCH_VERSION=";
        const std::string all = at::show_config();
        const size_t start = all.find(key);
        if (start != std::string::npos) {
            found = all.substr(start + key.size(), all.find_first_of(", \n", start) - start - key.size());
        }
    });
    std::free(failed);
    return found.c_str();
}

EXPORTED int32_t triton_torch_has_aoti(void) { return HAS_PACKAGES; }

EXPORTED int32_t triton_torch_gpu_count(void)
{
    int32_t count = 0;
    std::free(guarded([&] { count = torch::cuda::is_available() ? static_cast<int32_t>(torch::cuda::device_count()) : 0; }));
    return count;
}

EXPORTED int32_t triton_torch_intra_op_threads(void) { return at::get_num_threads(); }

EXPORTED int32_t triton_torch_inter_op_threads(void) { return at::get_num_interop_threads(); }

EXPORTED char *triton_torch_set_intra_op_threads(int32_t count)
{
    return guarded([&] { at::set_num_threads(count); });
}

EXPORTED char *triton_torch_set_inter_op_threads(int32_t count)
{
    return guarded([&] { at::set_num_interop_threads(count); });
}

EXPORTED void triton_torch_on_warning(void (*hear)(const char *text, size_t length)) { hear_warning = hear; }

EXPORTED void triton_torch_free_text(char *text) { std::free(text); }

EXPORTED char *triton_torch_load_script(const char *path, int32_t device, const triton_torch_modes *modes, triton_torch_module **module)
{
    return guarded([&] {
        const WarningGuard heard(&warnings);
        const Loading loading;
        const c10::InferenceMode inference(modes->inference_mode != 0);
        auto loaded = std::make_unique<triton_torch_module>();
        loaded->modes = *modes;
        loaded->device = device_of(device);
        check(*modes, device);
        loaded->script = torch::jit::load(std::string(path), loaded->device);
        loaded->forward = loaded->script->get_method("forward");
        loaded->arguments = arguments_of(*loaded->forward);
        loaded->takes_dictionary = loaded->arguments.size() == 1 && loaded->arguments[0].type.rfind("Dict(", 0) == 0;
        *module = loaded.release();
    });
}

EXPORTED char *triton_torch_load_package(const char *path, int32_t device, const triton_torch_modes *modes, triton_torch_module **module)
{
#if HAS_PACKAGES
    return guarded([&] {
        const WarningGuard heard(&warnings);
        const Loading loading;
        const c10::InferenceMode inference(modes->inference_mode != 0);
        auto loaded = std::make_unique<triton_torch_module>();
        loaded->modes = *modes;
        loaded->device = device_of(device);
        check(*modes, device);
        const bool is_on_gpu = loaded->device.has_value() && loaded->device->is_cuda();
        const c10::DeviceIndex index = is_on_gpu ? loaded->device->index() : static_cast<c10::DeviceIndex>(-1);
        loaded->package = std::make_unique<torch::inductor::AOTIModelPackageLoader>(path, "model", false, 1, index);
        loaded->call_spec = loaded->package->get_call_spec();
        *module = loaded.release();
    });
#else
    (void)path, (void)device, (void)modes, (void)module;
    return text("libtorch " TORCH_VERSION " has no packages of AOTInductor");
#endif
}

EXPORTED void triton_torch_unload(triton_torch_module *module)
{
    std::free(guarded([&] {
        delete module;
        if (torch::cuda::is_available()) {
            clean_cache();
        }
    }));
}

EXPORTED size_t triton_torch_argument_count(const triton_torch_module *module) { return module->arguments.size(); }

EXPORTED const char *triton_torch_argument_name(const triton_torch_module *module, size_t index)
{
    return index < module->arguments.size() ? module->arguments[index].name.c_str() : "";
}

EXPORTED const char *triton_torch_argument_type(const triton_torch_module *module, size_t index)
{
    return index < module->arguments.size() ? module->arguments[index].type.c_str() : "";
}

EXPORTED const char *triton_torch_call_spec(const triton_torch_module *module, size_t index)
{
    return index < module->call_spec.size() ? module->call_spec[index].c_str() : "";
}

EXPORTED uint64_t triton_torch_weight_bytes(const triton_torch_module *module, int32_t device)
{
    uint64_t bytes = 0;
    std::free(guarded([&] {
        const auto add = [&](const at::Tensor &tensor) {
            const bool is_there = device == TRITON_TORCH_CPU ? tensor.device().is_cpu()
                                                             : tensor.device().is_cuda() && tensor.device().index() == device;
            bytes += is_there ? tensor.nbytes() : 0;
        };
        if (module->script.has_value()) {
            for (const at::Tensor &tensor : module->script->parameters()) {
                add(tensor);
            }
            for (const at::Tensor &tensor : module->script->buffers()) {
                add(tensor);
            }
        }
    }));
    return bytes;
}

EXPORTED char *triton_torch_run(const triton_torch_module *module, const triton_torch_input *inputs, size_t input_count,
                                const size_t *wanted, size_t wanted_count, triton_torch_output **outputs, size_t *count)
{
    return guarded([&] {
        std::vector<std::unique_ptr<triton_torch_output>> made;
        made.reserve(wanted_count);
        run(*module, inputs, input_count, wanted, wanted_count, made, count);
        for (size_t index = 0; index < wanted_count; index++) {
            outputs[index] = made[index].release();
        }
    });
}

EXPORTED void triton_torch_describe(const triton_torch_output *output, triton_torch_description *description)
{
    *description = {TRITON_TORCH_NO_TYPE, 0, nullptr, nullptr, 0};
    std::free(guarded([&] {
        const at::Tensor &tensor = output->tensor;
        if (tensor.defined()) {
            *description = {static_cast<int32_t>(tensor.scalar_type()), static_cast<size_t>(tensor.dim()), tensor.sizes().data(),
                            tensor.data_ptr(), tensor.nbytes()};
        } else {
            *description = {TRITON_TORCH_STRINGS, output->shape.size(), output->shape.data(), nullptr, 0};
        }
    }));
}

EXPORTED triton_torch_text triton_torch_string(const triton_torch_output *output, size_t index)
{
    if (index >= output->strings.size()) {
        return {"", 0};
    }
    return {output->strings[index].data(), output->strings[index].size()};
}

EXPORTED void triton_torch_free_output(triton_torch_output *output)
{
    std::free(guarded([&] { delete output; }));
}
